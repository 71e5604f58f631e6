// A BullMQ worker as its documentation has it: a limiter shared by all workers of the
// queue, and on a 429 the queue is limited for the time that the API asks for.
//
//   node worker.mjs add N    puts N jobs into the queue
//   node worker.mjs work     works until it is stopped
import { Queue, Worker } from 'bullmq';

const { REDIS_PORT, API, CONCURRENCY, MAX, DURATION } = process.env;
const connection = { host: '127.0.0.1', port: Number(REDIS_PORT), maxRetriesPerRequest: null };
const queue = new Queue('translate', { connection });

async function add(n) {
  const options = { attempts: 25, backoff: { type: 'exponential', delay: 1000 }, removeOnComplete: true };
  for (let from = 0; from < n; from += 500) {
    const jobs = [];
    for (let i = from; i < Math.min(n, from + 500); i++) {
      jobs.push({ name: 'translate', data: { text: `good morning number ${i}` }, opts: options });
    }
    await queue.addBulk(jobs);
  }
  await queue.close();
}

async function translate(job) {
  const response = await fetch(`${API}/accounts/bench/ai/run/@cf/meta/m2m100-1.2b`, {
    method: 'POST',
    headers: { authorization: 'Bearer bench', 'content-type': 'application/json' },
    body: JSON.stringify({ text: job.data.text, target_lang: 'es' }),
  });
  const answer = await response.json();
  if (response.status === 429) {
    const advice = Number(response.headers.get('retry-after') ?? 0) * 1000;
    await queue.rateLimit(advice || Number(DURATION));
    throw Worker.RateLimitError();
  }
  if (!answer.success) throw new Error(`the API answered ${response.status}`);
}

if (process.argv[2] === 'add') {
  await add(Number(process.argv[3]));
} else {
  const worker = new Worker('translate', translate, {
    connection, concurrency: Number(CONCURRENCY), limiter: { max: Number(MAX), duration: Number(DURATION) },
  });
  worker.on('error', (error) => console.error(error));
  process.on('SIGTERM', async () => {
    await worker.close(true);
    await queue.close();
    process.exit(0);
  });
}

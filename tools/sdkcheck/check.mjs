// Drives a running neuronmill with the OpenAI SDK that is installed in a folder:
//
//   node check.mjs FOLDER BASE_URL EMULATOR_URL
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [folder, baseURL, emulator] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), folder, 'package.json'));
const OpenAI = require('openai');
const { VERSION } = require('openai/version');
const client = new OpenAI({ apiKey: 'any', baseURL, maxRetries: 0 });

const text = '@cf/zai-org/glm-4.7-flash';
const bge = '@cf/baai/bge-base-en-v1.5';
const limited = '@cf/qwen/qwen3-30b-a3b-fp8'; // 12 a minute, see run
const user = (content) => [{ role: 'user', content }];
const weather = {
  type: 'function',
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } },
};

async function calls(word) {
  const log = await (await fetch(`${emulator}/_emulator/requests`)).text();
  return log.trim().split('\n').map((line) => JSON.parse(line)).filter((r) => Buffer.from(r.Body ?? '', 'base64').toString().includes(word)).length;
}

function fault(f) {
  return fetch(`${emulator}/_emulator/faults`, { method: 'POST', body: JSON.stringify(f) });
}

function wav() {
  const rate = 8000, b = Buffer.alloc(44 + 2 * rate);
  b.write('RIFF', 0); b.writeUInt32LE(b.length - 8, 4); b.write('WAVEfmt ', 8);
  b.writeUInt32LE(16, 16); b.writeUInt16LE(1, 20); b.writeUInt16LE(1, 22); b.writeUInt32LE(rate, 24);
  b.writeUInt32LE(2 * rate, 28); b.writeUInt16LE(2, 32); b.writeUInt16LE(16, 34); b.write('data', 36); b.writeUInt32LE(2 * rate, 40);
  return b;
}

const checks = {
  async 'models are listed and described'() {
    const ids = [];
    for await (const m of client.models.list()) ids.push(m.id);
    assert.ok(ids.includes(bge));
    assert.equal((await client.models.retrieve(bge)).id, bge);
    await assert.rejects(client.models.retrieve('gpt-4o'), OpenAI.NotFoundError);
  },

  async 'embeddings are the same as base64, which the SDK asks for, and as floats'() {
    const packed = await client.embeddings.create({ model: bge, input: ['one', 'two'] });
    const plain = await client.embeddings.create({ model: bge, input: ['one', 'two'], encoding_format: 'float' });
    assert.equal(packed.data.length, 2);
    assert.equal(packed.data[1].embedding.length, 768);
    packed.data.forEach((d, i) => d.embedding.forEach((x, j) => assert.ok(Math.abs(x - plain.data[i].embedding[j]) < 1e-6)));
    assert.ok(packed.usage.prompt_tokens > 0);
  },

  async 'a chat is answered'() {
    const r = await client.chat.completions.create({ model: text, messages: user('Hello there') });
    assert.match(r.choices[0].message.content, /Hello there/);
    assert.equal(r.choices[0].finish_reason, 'stop');
    assert.ok(r.usage.total_tokens > 0);
    assert.match(r._request_id, /^req_/);
  },

  async 'tools are called, and their results come back'() {
    const r = await client.chat.completions.create({ model: text, messages: user('Weather in Rome?'), tools: [weather], tool_choice: 'auto' });
    const call = r.choices[0].message.tool_calls[0];
    assert.equal(r.choices[0].finish_reason, 'tool_calls');
    assert.equal(call.function.name, 'weather');
    assert.ok('city' in JSON.parse(call.function.arguments));
    const next = await client.chat.completions.create({
      model: text, messages: [...user('Weather in Rome?'), r.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }],
    });
    assert.ok(next.choices[0].message.content);
  },

  async 'an answer follows a schema'() {
    const r = await client.chat.completions.create({
      model: text, messages: user('A city'),
      response_format: { type: 'json_schema', json_schema: { name: 'city', schema: { type: 'object', properties: { name: { type: 'string' } } } } },
    });
    assert.equal(typeof JSON.parse(r.choices[0].message.content).name, 'string');
  },

  async 'a chat is streamed'() {
    const stream = await client.chat.completions.create({
      model: text, messages: user('Hello stream'), stream: true, stream_options: { include_usage: true },
    });
    let said = '', finish, usage;
    for await (const c of stream) {
      said += c.choices[0]?.delta.content ?? '';
      finish = c.choices[0]?.finish_reason ?? finish;
      usage = c.usage ?? usage;
    }
    assert.match(said, /Hello stream/);
    assert.equal(finish, 'stop');
    assert.ok(usage.total_tokens > 0);
    const helper = client.chat.completions.stream({ model: text, messages: user('Weather?'), tools: [weather] });
    const whole = await helper.finalChatCompletion();
    assert.equal(whole.choices[0].message.tool_calls[0].function.name, 'weather');
  },

  async 'an image comes as base64'() {
    const r = await client.images.generate({ model: '@cf/black-forest-labs/flux-1-schnell', prompt: 'a mill', size: '1024x1024' });
    assert.ok(Buffer.from(r.data[0].b64_json, 'base64').length > 10);
    assert.equal(r.size, '1024x1024');
  },

  async 'speech is transcribed'() {
    const file = () => OpenAI.toFile(wav(), 'speech.wav');
    const model = '@cf/openai/whisper-large-v3-turbo';
    const r = await client.audio.transcriptions.create({ model, file: await file() });
    assert.equal(typeof r.text, 'string');
    const verbose = await client.audio.transcriptions.create({
      model, file: await file(), response_format: 'verbose_json', timestamp_granularities: ['word', 'segment'], language: 'en',
    });
    assert.ok(Array.isArray(verbose.segments));
    assert.match(await client.audio.transcriptions.create({ model, file: await file(), response_format: 'vtt' }), /^WEBVTT/);
    assert.equal(typeof (await client.audio.translations.create({ model, file: await file() })).text, 'string');
  },

  async 'errors are the exceptions of the SDK'() {
    const bad = (more) => client.chat.completions.create({ model: text, messages: user('x'), ...more });
    await assert.rejects(bad({ n: 2 }), (e) => e instanceof OpenAI.BadRequestError && e.param === 'n' && e.type === 'invalid_request_error');
    await assert.rejects(bad({ model: 'gpt-4o' }), (e) => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
    await fault({ Contains: 'far too long', Code: 5021 });
    await assert.rejects(bad({ messages: user('far too long') }), (e) => e instanceof OpenAI.BadRequestError && e.code === 'context_length_exceeded');
    await fault({ Contains: 'late failure', Code: 5021, Delay: 12e9 });
    await assert.rejects(async () => {
      for await (const _ of await bad({ messages: user('late failure'), stream: true }));
    }, (e) => e instanceof OpenAI.APIError && e.code === 'context_length_exceeded');
  },

  async 'a limit is told at once, and its time is honoured'() {
    const ask = (options) => client.chat.completions.create(
      { model: limited, messages: user('limited') }, { headers: { 'X-Neuronmill-Max-Wait': '0.2' }, ...options });
    await client.chat.completions.create({ model: limited, messages: user('limited') });
    const begun = Date.now();
    await assert.rejects(ask(), (e) => {
      assert.ok(e instanceof OpenAI.RateLimitError);
      const ms = Number(e.headers.get('retry-after-ms'));
      assert.ok(ms > 0 && ms <= 5500, `retry-after-ms ${ms}`);
      return true;
    });
    assert.ok(Date.now() - begun < 1000, 'refused at once');
    await ask({ maxRetries: 2 });
    assert.ok(Date.now() - begun > 3000, 'the SDK waited as told');
  },

  async 'silent repetitions pay once'() {
    const word = `slow-${folder}`;
    await fault({ Contains: word, Delay: 3e9 });
    const r = await client.chat.completions.create({ model: text, messages: user(word) }, { timeout: 1200, maxRetries: 5 });
    assert.match(r.choices[0].message.content, /slow/);
    assert.equal(await calls(word), 1);
  },

  async 'a batch goes from upload to output, and its files are deleted'() {
    const line = (id, body) => JSON.stringify({ custom_id: id, method: 'POST', url: '/v1/embeddings', body: { model: bge, ...body } });
    const lines = [line('b', { input: 'one' }), line('a', { input: ['two', 'three'] }), line('c', { input: 'x', dimensions: 3 })].join('\n');
    const upload = (content) => OpenAI.toFile(Buffer.from(content), 'rows.jsonl');
    const file = await client.files.create({ file: await upload(lines), purpose: 'batch', expires_after: { anchor: 'created_at', seconds: 3600 } });
    assert.equal(file.bytes, lines.length);
    assert.equal(file.expires_at - file.created_at, 3600);
    assert.equal((await client.files.waitForProcessing(file.id)).status, 'processed');
    const batch = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h', metadata: { sdk: folder } });
    assert.equal(batch.status, 'validating');
    const done = await ended(batch.id);
    assert.equal(done.status, 'completed', JSON.stringify(done));
    assert.deepEqual(done.request_counts, { total: 3, completed: 2, failed: 1 });
    const read = async (id) => (await (await client.files.content(id)).text()).trim().split('\n').map((l) => JSON.parse(l));
    const output = await read(done.output_file_id);
    assert.deepEqual(output.map((l) => l.custom_id), ['b', 'a']);
    assert.equal(output[1].response.body.data[1].embedding.length, 768);
    const errors = await read(done.error_file_id);
    assert.equal(errors[0].response.body.error.param, 'dimensions');
    for (const id of [file.id, done.output_file_id, done.error_file_id]) assert.equal((await client.files.delete(id)).deleted, true);
    await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);

    const refused = await client.files.create({ file: await upload('{"custom_id": 1}\n'), purpose: 'batch' });
    const failed = await ended((await client.batches.create({ input_file_id: refused.id, endpoint: '/v1/embeddings', completion_window: '24h' })).id);
    assert.equal(failed.status, 'failed');
    assert.equal(failed.errors.data[0].line, 1);
    await assert.rejects(client.batches.cancel(failed.id), OpenAI.ConflictError);
  },

  async '60 batches are listed page by page'() {
    const body = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/embeddings', body: { model: bge, input: 'x' } });
    const file = await client.files.create({ file: await OpenAI.toFile(Buffer.from(body), 'rows.jsonl'), purpose: 'batch' });
    const made = [];
    for (let i = 0; i < 60; i++) made.unshift((await client.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' })).id);
    const listed = [];
    for await (const b of client.batches.list()) {
      listed.push(b.id);
      if (listed.length === made.length) break;
    }
    assert.deepEqual(listed, made);
    const cancelled = await client.batches.cancel(made[0]).catch((e) => e);
    assert.ok(cancelled instanceof OpenAI.ConflictError || ['cancelling', 'cancelled', 'finalizing'].includes(cancelled.status), String(cancelled));
  },
};

async function ended(id) {
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (['completed', 'failed', 'expired', 'cancelled'].includes(batch.status)) return batch;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok    openai ${VERSION}: ${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL  openai ${VERSION}: ${name}\n${e.stack}`);
  }
}
process.exit(failed ? 1 : 0);

package catalogue

// The figures are from the public pages: models and limits of 2026-09-17, prices in
// neurons of 2026-08-28. "neuronmill models --refresh" shows the current differences of an
// account's own catalogue.

// textModels generate text.
var textModels = []Model{
	{
		ID: "@cf/meta/llama-3.2-1b-instruct", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300,
		Context: 60000, Price: Price{PerMInput: 2457, PerMOutput: 18252},
	},
	{
		ID: "@cf/meta/llama-3.2-3b-instruct", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300,
		Context: 80000, Price: Price{PerMInput: 4625, PerMOutput: 30475},
	},
	{
		ID: "@cf/meta/llama-3.1-8b-instruct-fp8", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 32000, Price: Price{PerMInput: 13778, PerMOutput: 26128},
	},
	{
		ID: "@cf/meta/llama-3.1-8b-instruct-fast", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 128000, JSONMode: true,
	},
	{
		ID: "@cf/meta/llama-3.1-8b-instruct-fp8-fast", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Price: Price{PerMInput: 4119, PerMOutput: 34868},
	},
	{
		ID: "@cf/meta/llama-3.1-70b-instruct-fp8-fast", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Price: Price{PerMInput: 26668, PerMOutput: 204805},
	},
	{
		ID: "@cf/meta/llama-3.3-70b-instruct-fp8-fast", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 24000, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 26668, PerMOutput: 204805},
	},
	{
		ID: "@cf/meta/llama-3.2-11b-vision-instruct", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 128000, Price: Price{PerMInput: 4410, PerMOutput: 61493},
	},
	{
		ID: "@cf/meta/llama-4-scout-17b-16e-instruct", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 131000, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 24545, PerMOutput: 77273},
	},
	{
		ID: "@cf/meta/llama-guard-3-8b", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300,
		Context: 131072, JSONMode: true, Whole: true, Price: Price{PerMInput: 44003, PerMOutput: 2730},
	},
	{
		ID: "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 80000, JSONMode: true, Price: Price{PerMInput: 45170, PerMOutput: 443756},
	},
	{
		ID: "@cf/deepseek-ai/deepseek-v4-flash-0731", Kind: "text", Transport: JSON, Answer: Chat,
		PerMinute: 20, Paid: true, Context: 1048576, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 40000, PerMOutput: 120000},
	},
	{
		ID: "@cf/deepseek-ai/deepseek-v4-pro-0813", Kind: "text", Transport: JSON, Answer: Chat,
		PerMinute: 20, Paid: true, Context: 1048576, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 120000, PerMOutput: 360000},
	},
	{
		ID: "@cf/mistralai/mistral-small-3.1-24b-instruct", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 128000, Tools: true, Price: Price{PerMInput: 31876, PerMOutput: 50488},
	},
	{
		ID: "@cf/qwen/qwq-32b", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300, Context: 24000,
		Tools: true, Price: Price{PerMInput: 60000, PerMOutput: 90909},
	},
	{
		ID: "@cf/qwen/qwen2.5-coder-32b-instruct", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 32768, Price: Price{PerMInput: 60000, PerMOutput: 90909},
	},
	{
		ID: "@cf/qwen/qwen3-30b-a3b-fp8", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 32768, Tools: true, JSONMode: true, Price: Price{PerMInput: 4625, PerMOutput: 30475},
	},
	{
		ID: "@cf/qwen/qwen3.8-27b", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 262144, Tools: true, Price: Price{PerMInput: 40909, PerMOutput: 290909},
	},
	{
		ID: "@cf/openai/gpt-oss-120b", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 128000, Tools: true, JSONMode: true, Whole: true,
		Price: Price{PerMInput: 31818, PerMOutput: 68182},
	},
	{
		ID: "@cf/openai/gpt-oss-20b", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 128000, Tools: true, JSONMode: true, Whole: true,
		Price: Price{PerMInput: 18182, PerMOutput: 27273},
	},
	{
		ID: "@cf/aisingapore/gemma-sea-lion-v4-27b-it", Kind: "text", Transport: JSON, Answer: Chat,
		PerMinute: 300, Context: 128000, JSONMode: true, Price: Price{PerMInput: 31876, PerMOutput: 50488},
	},
	{
		ID: "@cf/ibm-granite/granite-4.0-h-micro", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300, Context: 131000, Tools: true, Price: Price{PerMInput: 1542, PerMOutput: 10158},
	},
	{
		ID: "@cf/zai-org/glm-4.7-flash", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 131072, Tools: true, JSONMode: true, Price: Price{PerMInput: 5500, PerMOutput: 36400},
	},
	{
		ID: "@cf/zai-org/glm-5.2", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 20, Paid: true,
		Context: 262144, Tools: true, JSONMode: true, Price: Price{PerMInput: 127273, PerMOutput: 400000},
	},
	{
		ID: "@cf/zai-org/glm-5.3", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 20, Paid: true,
		Tools: true, JSONMode: true, Price: Price{PerMInput: 127273, PerMOutput: 400000},
	},
	{
		ID: "@cf/zai-org/glm-5.3-flash", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 20,
		Paid: true, Tools: true, JSONMode: true, Price: Price{PerMInput: 13636, PerMOutput: 45455},
	},
	{
		ID: "@cf/nvidia/nemotron-3-120b-a12b", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 256000, Tools: true, JSONMode: true, Price: Price{PerMInput: 45455, PerMOutput: 136364},
	},
	{
		ID: "@cf/moonshotai/kimi-k2.6", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 20,
		Paid: true, Context: 262144, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 86364, PerMOutput: 363636},
	},
	{
		ID: "@cf/moonshotai/kimi-k2.7-code", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 20,
		Paid: true, Context: 262144, Tools: true, JSONMode: true,
		Price: Price{PerMInput: 86364, PerMOutput: 363636},
	},
	{
		ID: "@cf/google/gemma-4-26b-a4b-it", Kind: "text", Transport: JSON, Answer: Chat, PerMinute: 300,
		Context: 256000, Tools: true, JSONMode: true, Price: Price{PerMInput: 9091, PerMOutput: 27273},
	},
	{
		ID: "@cf/google/gemma-7b-it-lora", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300,
	},
	{
		ID: "@cf/google/gemma-2b-it-lora", Kind: "text", Transport: JSON, Answer: Native, PerMinute: 300,
	},
	{
		ID: "@cf/mistral/mistral-7b-instruct-v0.2-lora", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300,
	},
	{
		ID: "@cf/meta-llama/llama-2-7b-chat-hf-lora", Kind: "text", Transport: JSON, Answer: Native,
		PerMinute: 300,
	},
}

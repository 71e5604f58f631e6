package catalogue

// languageModels embed and translate.
var languageModels = []Model{
	{
		ID: "@cf/baai/bge-small-en-v1.5", Kind: "embedding", Transport: JSON, Answer: Vectors,
		PerMinute: 3000, Texts: 100, TextTokens: 512, Dimensions: 384, Pooling: true, Price: Price{PerMInput: 1841},
	},
	{
		ID: "@cf/baai/bge-base-en-v1.5", Kind: "embedding", Transport: JSON, Answer: Vectors, PerMinute: 3000,
		Texts: 100, TextTokens: 512, Dimensions: 768, Pooling: true, Price: Price{PerMInput: 6058},
	},
	{
		ID: "@cf/baai/bge-large-en-v1.5", Kind: "embedding", Transport: JSON, Answer: Vectors,
		PerMinute: 1500, Texts: 100, TextTokens: 512, Dimensions: 1024, Pooling: true, Price: Price{PerMInput: 18582},
	},
	{
		ID: "@cf/baai/bge-m3", Kind: "embedding", Transport: JSON, Answer: Vectors, PerMinute: 3000,
		Texts: 100, CallTokens: 60000, TextTokens: 8192, Dimensions: 1024, Price: Price{PerMInput: 1075},
	},
	{
		ID: "@cf/google/embeddinggemma-300m", Kind: "embedding", Transport: JSON, Answer: Vectors,
		PerMinute: 3000, Texts: 100, Dimensions: 768,
	},
	{
		ID: "@cf/qwen/qwen3-embedding-0.6b", Kind: "embedding", Transport: JSON, Answer: Vectors,
		PerMinute: 3000, Texts: 32, TextTokens: 8192, Dimensions: 1024, Price: Price{PerMInput: 1075},
	},
	{
		ID: "@cf/pfnet/plamo-embedding-1b", Kind: "embedding", Transport: JSON, Answer: Vectors,
		PerMinute: 3000, Texts: 32, Dimensions: 2048, Price: Price{PerMInput: 1689},
	},
	{
		ID: "@cf/meta/m2m100-1.2b", Kind: "translation", Transport: JSON, Answer: Translated, PerMinute: 720,
		Price: Price{PerMInput: 31050, PerMOutput: 31050},
	},
	{
		ID: "@cf/ai4bharat/indictrans2-en-indic-1B", Kind: "translation", Transport: JSON,
		Answer: Translations, PerMinute: 720, Texts: 32, Price: Price{PerMInput: 31050, PerMOutput: 31050},
	},
}

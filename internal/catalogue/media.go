package catalogue

// mediaModels generate images and transcribe speech.
var mediaModels = []Model{
	{
		ID: "@cf/black-forest-labs/flux-1-schnell", Kind: "image", Transport: JSON, Answer: ImageBase64,
		PerMinute: 720, Prompt: 2048, Steps: Bound{1, 8, 4}, StepsField: "steps", Width: Bound{0, 0, 1024},
		Height: Bound{0, 0, 1024}, Price: Price{PerTile: 4.8, PerStep: 9.6},
	},
	{
		ID: "@cf/black-forest-labs/flux-2-dev", Kind: "image", Transport: Multipart, Answer: ImageBase64,
		PerMinute: 720, Width: Bound{256, 1920, 1024}, Height: Bound{256, 1920, 768},
		Guidance: Bound{0, 20, 0}, Seed: true, Steps: Bound{1, 50, 25}, StepsField: "steps",
		Price: Price{PerTileStep: 37.5},
	},
	{
		ID: "@cf/black-forest-labs/flux-2-klein-4b", Kind: "image", Transport: Multipart, Answer: ImageBase64,
		PerMinute: 720, Width: Bound{256, 1920, 1024}, Height: Bound{256, 1920, 768},
		Guidance: Bound{0, 20, 0}, Seed: true, Steps: Bound{0, 0, 4}, Price: Price{PerTile: 26.05},
	},
	{
		ID: "@cf/black-forest-labs/flux-2-klein-9b", Kind: "image", Transport: Multipart, Answer: ImageBase64,
		PerMinute: 720, Width: Bound{256, 1920, 1024}, Height: Bound{256, 1920, 768},
		Guidance: Bound{0, 20, 0}, Seed: true, Steps: Bound{0, 0, 4},
		Price: Price{PerImageMP: 1363.64, PerExtraMP: 181.82},
	},
	{
		ID: "@cf/leonardo/lucid-origin", Kind: "image", Transport: JSON, Answer: ImageBase64, PerMinute: 720,
		Width: Bound{1, 2500, 1120}, Height: Bound{1, 2500, 1120}, Steps: Bound{1, 40, 15},
		StepsField: "num_steps", Guidance: Bound{0, 10, 4.5}, Seed: true,
		Price: Price{PerTile: 636, PerStep: 12},
	},
	{
		ID: "@cf/leonardo/phoenix-1.0", Kind: "image", Transport: JSON, Answer: ImageBytes, PerMinute: 720,
		Width: Bound{1, 2048, 1024}, Height: Bound{1, 2048, 1024}, Steps: Bound{1, 50, 25},
		StepsField: "num_steps", Guidance: Bound{2, 10, 2}, Seed: true, Negative: true,
		Price: Price{PerTile: 530, PerStep: 10},
	},
	{
		ID: "@cf/stabilityai/stable-diffusion-xl-base-1.0", Kind: "image", Transport: JSON,
		Answer: ImageBytes, PerMinute: 720, Width: Bound{256, 2048, 1024}, Height: Bound{256, 2048, 1024},
		Steps: Bound{1, 20, 20}, StepsField: "num_steps", Guidance: Bound{0, 50, 7.5}, Seed: true,
		Negative: true,
	},
	{
		ID: "@cf/bytedance/stable-diffusion-xl-lightning", Kind: "image", Transport: JSON, Answer: ImageBytes,
		PerMinute: 720, Width: Bound{256, 2048, 1024}, Height: Bound{256, 2048, 1024},
		Steps: Bound{1, 20, 20}, StepsField: "num_steps", Guidance: Bound{0, 50, 7.5}, Seed: true,
		Negative: true,
	},
	{
		ID: "@cf/lykon/dreamshaper-8-lcm", Kind: "image", Transport: JSON, Answer: ImageBytes, PerMinute: 720,
		Width: Bound{256, 2048, 1024}, Height: Bound{256, 2048, 1024}, Steps: Bound{1, 20, 20},
		StepsField: "num_steps", Guidance: Bound{0, 50, 7.5}, Seed: true, Negative: true,
	},
	{
		ID: "@cf/runwayml/stable-diffusion-v1-5-img2img", Kind: "image", Transport: JSON, Answer: ImageBytes,
		PerMinute: 1500, Width: Bound{256, 2048, 1024}, Height: Bound{256, 2048, 1024},
		Steps: Bound{1, 20, 20}, StepsField: "num_steps", Guidance: Bound{0, 50, 7.5}, Seed: true,
		Negative: true, Notes: "made to change a given image; only a prompt can be sent here",
	},
	{
		ID: "@cf/runwayml/stable-diffusion-v1-5-inpainting", Kind: "image", Transport: JSON,
		Answer: ImageBytes, PerMinute: 720, Width: Bound{256, 2048, 1024}, Height: Bound{256, 2048, 1024},
		Steps: Bound{1, 20, 20}, StepsField: "num_steps", Guidance: Bound{0, 50, 7.5}, Seed: true,
		Negative: true, Notes: "made to change a given image; only a prompt can be sent here",
	},
	{
		ID: "@cf/openai/whisper", Kind: "transcription", Transport: RawAudio, Answer: Whisper, PerMinute: 720,
		Price: Price{PerAudioMinute: 41.14},
	},
	{
		ID: "@cf/openai/whisper-tiny-en", Kind: "transcription", Transport: RawAudio, Answer: Whisper,
		PerMinute: 720,
	},
	{
		ID: "@cf/openai/whisper-large-v3-turbo", Kind: "transcription", Transport: JSON, Answer: WhisperV3,
		PerMinute: 720, Price: Price{PerAudioMinute: 46.63},
	},
	{
		ID: "@cf/deepgram/nova-3", Kind: "transcription", Transport: RawAudio, Answer: Deepgram,
		PerMinute: 720, Price: Price{PerAudioMinute: 472.73},
	},
}

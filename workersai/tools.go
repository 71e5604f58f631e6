package workersai

import "encoding/json"

// completeTools adds the fields that the schema of native models requires for each tool:
// a description, parameters with a type and properties, and a description of each
// property. It does not change a value that is not an object; the API will refuse it.
func completeTools(raw json.RawMessage) json.RawMessage {
	var tools []json.RawMessage
	if json.Unmarshal(raw, &tools) != nil {
		return raw
	}
	for i, tool := range tools {
		tools[i] = change(tool, func(tool map[string]json.RawMessage) {
			if blank(tool["function"]) {
				completeFunction(tool)
				return
			}
			tool["function"] = change(tool["function"], completeFunction)
		})
	}
	return encoded(tools, raw)
}

func completeFunction(function map[string]json.RawMessage) {
	fill(function, "description", `""`)
	fill(function, "parameters", `{}`)
	function["parameters"] = change(function["parameters"], func(parameters map[string]json.RawMessage) {
		fill(parameters, "type", `"object"`)
		fill(parameters, "properties", `{}`)
		parameters["properties"] = change(parameters["properties"], func(properties map[string]json.RawMessage) {
			for name, property := range properties {
				properties[name] = change(property, func(property map[string]json.RawMessage) { fill(property, "description", `""`) })
			}
		})
	})
}

// change edits a JSON object. It does not change any other value.
func change(raw json.RawMessage, edit func(map[string]json.RawMessage)) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return raw
	}
	edit(fields)
	return encoded(fields, raw)
}

// encoded encodes v, or returns the original if v cannot be encoded.
func encoded(v any, original json.RawMessage) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return original
	}
	return raw
}

// fill sets a field that is absent or null.
func fill(fields map[string]json.RawMessage, name, value string) {
	if v := fields[name]; len(v) == 0 || string(v) == "null" {
		fields[name] = json.RawMessage(value)
	}
}

module github.com/neuronmill/neuronmill/tools/lint

go 1.26.0

# Short names for the commands that CI uses. "make" lists them.
SEED ?= 1
PACKAGE ?= ./tasks

.PHONY: help demo test race lint mutants mutate simulate soak fuzz bench ci nightly

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a task of every kind, from the queue to its result
	go run ./cmd/neuronmill demo

test: ## the tests; says what it leaves out where there is no redis-server or versitygw
	go test ./...

race: ## the tests with the race detector, in random order; fails without redis-server and versitygw
	.ci/run race

lint: ## formatting, vet and golangci-lint
	.ci/run lint

mutants: ## take out each protection in turn: its test must fail
	.ci/run mutants

mutate: ## random small changes of a package against its own tests: make mutate PACKAGE=./tasks
	go run ./tools/mutants -sample 40 -seed $(SEED) $(PACKAGE)

simulate: ## one simulation, told step by step: make simulate SEED=7
	go test ./internal/engine -run 'TestSimulation$$' -sim.seed=$(SEED)

soak: ## real processes for two minutes while everything breaks: make soak SEED=11
	.ci/run soak 2m $(SEED)

fuzz: ## each fuzz target for 20 seconds
	.ci/run fuzz 20s

bench: ## measure beside asynq and BullMQ, about 25 minutes; writes docs/benchmarks.md
	go run -C bench . all

ci: ## everything that must hold before a change lands
	.ci/run

nightly: ## what takes hours: long simulation and soak with fresh seeds, fuzzing, all mutants
	.ci/nightly

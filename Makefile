# One door to everything: `make` lists the tasks. Each one does the set-up it needs by itself.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

DURATION ?= 60s
SEED ?= 1
OUTPUT ?= build/demo
# embedded: inside the demo's process; real: an Apache Kafka of its own.
KAFKA ?= embedded
# Cargo profile of build and demo.
PROFILE ?= release
PORT ?= 9092
MINUTES ?= 3
BROKERS ?= 1
RESTARTS ?= 10
UPDATES ?= 200
DEVICE ?= cpu
# What is tested besides: baselines and ablations, which no release has.
FEATURES := --features research

easq := cargo run --quiet --profile $(PROFILE) --

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: setup-build
setup-build:
	@scripts/system-packages build
	@scripts/get-libtorch

.PHONY: setup-kafka
setup-kafka:
	@scripts/system-packages kafka
	@scripts/get-kafka >/dev/null

.PHONY: setup-prometheus
setup-prometheus:
	@scripts/get-prometheus >/dev/null

.PHONY: setup
setup: setup-build setup-kafka setup-prometheus ## Fetch what building and testing need; plain cargo works afterwards
	@scripts/python-env >/dev/null

# Which commit `easq_build_info` and /status name.
build demo image: export EASQ_REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)

.PHONY: build
build: setup-build ## Build the program (PROFILE=release)
	cargo build --profile $(PROFILE)

.PHONY: demo
ifeq ($(KAFKA),real)
demo: setup-kafka
endif
demo: setup-build ## Show the whole line at work (DURATION=60s SEED=1 OUTPUT=build/demo KAFKA=embedded|real)
	cargo build --profile $(PROFILE)
ifeq ($(KAFKA),real)
	scripts/with-kafka bash -c '$(easq) demo --duration $(DURATION) --seed $(SEED) --output "$(OUTPUT)" --kafka "$$EASQ_TEST_KAFKA"'
else ifeq ($(KAFKA),embedded)
	$(easq) demo --duration $(DURATION) --seed $(SEED) --output "$(OUTPUT)"
else
	$(error KAFKA is '$(KAFKA)', allowed are embedded and real)
endif

.PHONY: test
test: setup ## Run all tests against a real Apache Kafka (ARGS=... for cargo test)
	scripts/with-kafka cargo test $(FEATURES) $(ARGS)

.PHONY: interop
interop: setup-build setup-kafka ## Load published models as rankers do: PyTorch, PEFT (fetches 2 GB, 5 GB on disk)
	@scripts/interop-env >/dev/null
	scripts/with-kafka cargo test $(FEATURES) --test rankers $(ARGS)

.PHONY: chaos
chaos: setup-build setup-kafka ## Kill, freeze and cut everything, then verify (SEED=drawn MINUTES=3 BROKERS=1|3)
	cargo test $(FEATURES) --test chaos -- --minutes $(MINUTES) --brokers $(BROKERS) $(if $(filter command line environment,$(origin SEED)),--seed $(SEED))

.PHONY: compare
compare: setup-build ## Rank the method, its baselines and ablations on the synthetic world (ARGS=--quick)
	cargo run --release $(FEATURES) -- evaluate --compare --output build/comparison $(ARGS)

.PHONY: poison
poison: setup-build ## Poison streams of the synthetic world, and see what the gate lets through (ARGS=--ungated)
	cargo run --release $(FEATURES) -- poison --output build/poison.json $(ARGS)

.PHONY: bench
bench: setup-build setup-kafka ## Measure what speed depends on (ARGS=... for criterion, RESTARTS=10 of a joiner, UPDATES=200 of a model)
	cargo bench --bench join --bench train_step -- $(ARGS)
	cargo bench --bench telemetry
	scripts/with-kafka cargo bench --bench recovery -- --restarts $(RESTARTS)
	scripts/with-kafka cargo bench --bench follow -- --updates $(UPDATES)
	scripts/with-kafka cargo bench --bench replay -- --views 1000000 --hours 1 --rounds 3

.PHONY: pictures
pictures: setup-build setup-kafka setup-prometheus ## Draw the dashboards of a running line, for README (ARGS="--minutes 6")
	scripts/with-kafka cargo test $(FEATURES) --test pictures -- --output docs/images $(ARGS)

.PHONY: lint
lint: setup-build ## Check formatting, and lints with warnings as errors
	cargo fmt --check
	cargo clippy -- -D warnings
	cargo clippy $(FEATURES) --all-targets -- -D warnings
	cargo clippy $(FEATURES) --test chaos --test rankers --test pictures --test image -- -D warnings

.PHONY: deny
deny: ## Check licenses, versions, origin and advisories of the dependencies (builds cargo-deny once)
	@scripts/cargo-deny

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt

.PHONY: kafka
kafka: setup-kafka ## Run an empty Apache Kafka on 127.0.0.1 until Ctrl-C (PORT=9092)
	@scripts/with-kafka --port $(PORT) bash -c 'echo "Apache Kafka at $$EASQ_TEST_KAFKA until Ctrl-C"; exec sleep infinity'

# Layers are kept, so that the next build does not fetch libtorch again. The format is Docker's, as
# OCI's own has no health check. Buildah is not installed unasked: Docker and Podman do as well.
.PHONY: image
image: ## Build the container image easq:latest with buildah (DEVICE=cpu|cuda ARGS=... for buildah)
	@command -v buildah >/dev/null || { echo "no buildah. Paste:  sudo apt-get update && sudo apt-get install -y buildah" >&2; exit 1; }
	buildah build --layers --format docker --tag easq:latest --build-arg EASQ_REVISION --build-arg DEVICE=$(DEVICE) $(ARGS) .

.PHONY: image-check
image-check: setup-build setup-kafka ## Build the image on base images of its own, measure it, run it (DEVICE=cpu|cuda; root)
	@scripts/image-check $(DEVICE) $(ARGS)

# The plugin of docker where it is there, else the library that it is made of.
.PHONY: compose-config
compose-config: ## Check docker-compose.yml with Docker Compose's own reader (docker compose, or Go)
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; \
	elif command -v go >/dev/null; then go run github.com/compose-spec/compose-go/v2/cmd@v2.9.0 docker-compose.yml >/dev/null; \
	else echo "neither docker compose nor go is here" >&2; exit 1; fi
	@echo "docker-compose.yml is right"

.PHONY: clean
clean: ## Remove what was built here (not what lies in the user's cache)
	cargo clean
	rm -rf build

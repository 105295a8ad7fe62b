# Everything that a developer runs by hand; CI runs the same targets (.ci/run).

export NATIVE
export FUZZ_SECONDS ?= 30
export PATH := $(CURDIR)/.tools/bin:$(CURDIR)/.tools/prometheus/usr/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help build test lint lint-fmt lint-clippy lint-deny lint-prometheus lint-stack fuzz bench bench-s3 bench-archive bench-queue e2e soak \
	run dev stop logs inspect reconstruct check

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Release build: target/release/gravity
	cargo build --release

test: ## All tests, those of the S3 store and of the queue against real servers
	@dev/tools.sh seaweedfs ministack prometheus engines
	dev/ministack.py run -- dev/seaweedfs.py run --bucket gravity-test -- cargo test --workspace

# Where cargo builds, and so where `make e2e` finds the binary.
target := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)

soak: ## Workers killed SOAK_KILLS (1000) times on each kind of store, SIM_SCHEDULES (5000) simulated ones
	@dev/tools.sh seaweedfs ministack
	SIM_SCHEDULES=$(or $(SIM_SCHEDULES),5000) cargo test --release -p gravity-pipeline --test simulation -- --nocapture
	SOAK_KILLS=$(or $(SOAK_KILLS),1000) dev/ministack.py run -- dev/seaweedfs.py run --bucket gravity-test -- \
		cargo test --release --test soak -- --nocapture --test-threads=1
	SOAK_WORKER_ARGS='--layout packed --flush-interval 200ms' SOAK_KILLS=$(or $(SOAK_KILLS),1000) \
		dev/ministack.py run -- dev/seaweedfs.py run --bucket gravity-test -- \
		cargo test --release --test soak -- --nocapture --test-threads=1

e2e: ## LiteLLM, collector, S3 and worker: what was sent comes back
	@dev/tools.sh seaweedfs ministack litellm otelcol prometheus
	@# Not `cargo build`: tests have the SDK's crates in other features, and these would be built a second time.
	cargo test --workspace --no-run --test cli
	GRAVITY='$(target)/debug/gravity' dev/e2e/run.py

lint: lint-fmt lint-clippy lint-deny lint-prometheus lint-stack ## Format, clippy, dependencies, alert rules, deployment

lint-fmt: ## Format, and no file with the marks of a merge
	cargo fmt --all --check
	cargo fmt --manifest-path pipeline/fuzz/Cargo.toml --check
	@! grep -rnIE '^(<{7}|>{7}) ' --exclude-dir=.git --exclude-dir=.tools --exclude-dir=target . || { echo 'a merge was not finished'; exit 1; }

lint-clippy:
	cargo clippy --workspace --all-targets -- -D warnings

lint-deny:
	@dev/tools.sh deny
	dev/deny.sh

lint-prometheus:
	@dev/tools.sh prometheus
	promtool check config dev/prometheus/prometheus.yml
	promtool test rules dev/prometheus/rules.test.yml

lint-stack: ## Scripts, Dockerfile, compose file, manifests, unit, Terraform
	@dev/tools.sh compose lint prometheus
	dev/check_stack.py

fuzz: ## Every fuzz target for FUZZ_SECONDS (30)
	@dev/tools.sh fuzz
	dev/fuzz.sh

bench: ## Benchmarks without a network
	cargo bench

bench-archive: ## The packed layout against gzip and zstd, bytes, time, memory and flushes: CORPUS=folders of gzip'd batches
	$(if $(CORPUS),,$(error CORPUS is not set: make bench-archive CORPUS=<folder of batches>))
	cargo build --release
	python3 benches/archive.py '$(target)/release/gravity' $(CORPUS)

bench-s3: ## The loose layout to a local S3 server: CORPUS=folder that benches/cut_corpus.py made
	$(if $(CORPUS),,$(error CORPUS is not set: make bench-s3 CORPUS=<folder of batches>))
	@dev/tools.sh seaweedfs
	cargo build --release
	dev/seaweedfs.py run --bucket gravity-bench -- python3 benches/loose_s3.py '$(CORPUS)'

bench-queue: ## From upload to commit by events: CORPUS=folder that benches/cut_corpus.py made
	$(if $(CORPUS),,$(error CORPUS is not set: make bench-queue CORPUS=<folder of batches>))
	@dev/tools.sh ministack
	cargo build --release
	dev/ministack.py run -- benches/queue_lag.py --gravity '$(target)/release/gravity' '$(CORPUS)'

run: ## A worker on a local store: STORE=… (./gravity-data)
	cargo run --release -- worker --store '$(or $(STORE),./gravity-data)'

dev: ## Starts the whole stack and sends a request through it (NATIVE=1: without Docker)
	scripts/dev.sh

stop: ## Ends the stack
	scripts/stop-services.sh

logs: ## The stack's logs
	scripts/logs.sh

inspect: ## What the stack's store holds, or a local one: STORE=…
	$(if $(STORE),cargo run --release -- inspect --store '$(STORE)',scripts/inspect.sh)

reconstruct: ## The trace TRACE_ID=… of the stack's store, or of a local one: STORE=…
	$(if $(TRACE_ID),,$(error TRACE_ID is not set: make reconstruct TRACE_ID=<trace id>))
	$(if $(STORE),cargo run --release -- reconstruct --store '$(STORE)' '$(TRACE_ID)',scripts/reconstruct.sh '$(TRACE_ID)')

check: lint test e2e fuzz ## All of it: lint, test, e2e, fuzz

# Everything a developer does here is a target; "make" lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# Static programs: the VM runner becomes a guest's first process, and sluice is
# copied to machines that have nothing.
export CGO_ENABLED := 0

GO_BUILD := go build -trimpath -buildvcs=auto -ldflags '-s -w'
RUNNER := .build/sluicevm
BIN := .build/bin
T ?= 30s
SEEDS ?= 1000
DESTDIR ?=
PREFIX ?= /usr/local
PROTO := proto/sluice

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: go
go:
	@v=$$(cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//' || true); \
	if [ -z "$$v" ] || [ "$$(printf '%s\n' 1.21 "$$v" | sort -V | head -1)" != 1.21 ]; then \
	  echo "make: needs Go 1.21 or newer (found $${v:-none}): install a newer one, it fetches the version that go.mod names"; exit 1; fi

.PHONY: build
build: go ## build .build/sluice, one static program
	@$(GO_BUILD) -o .build/sluice ./cmd/sluice

.PHONY: install
install: build ## program and systemd unit, below DESTDIR
	@install -D -m 755 .build/sluice $(DESTDIR)$(PREFIX)/bin/sluice
	@install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	@sed 's|/usr/local/bin/|$(PREFIX)/bin/|' deploy/systemd/sluice.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/sluice.service

.PHONY: runner
runner: go
	@$(GO_BUILD) -o $(RUNNER) ./internal/lab/cmd/sluicevm

.PHONY: demo
demo: go ## three nodes, one service, every client and node: prints the table
	@hack/deps run
	@$(MAKE) build runner
	@$(GO_BUILD) -o .build/demo ./internal/lab/cmd/demo
	@SLUICE_BIN=$(CURDIR)/.build/sluice $(RUNNER) auto .build/demo

.PHONY: test
test: deps build runner ## everything: static checks, all tests here, and in a VM those that need one
	@go run ./internal/lab/cmd/runtests -check 'make static' -beside 'make fuzz T=20s' -beside 'make sim-fresh' -runner '$(CURDIR)/$(RUNNER) -t 2700' -steady '$(CURDIR)/$(RUNNER) -1 -t 2400' ./...

.PHONY: check
check: deps build static ## static checks and the tests that this kernel can carry
	@go test -timeout 30m ./...

.PHONY: static
static: go
	@go mod tidy -diff
	@go vet ./...
	@$(MAKE) lint
	@# "git status" also shows files that generating adds.
	@before=$$(git status --porcelain -- $(PROTO); git diff -- $(PROTO)); $(MAKE) proto; \
	after=$$(git status --porcelain -- $(PROTO); git diff -- $(PROTO)); \
	[ "$$before" = "$$after" ] || { echo "generated code was not fresh: commit what make proto made"; exit 1; }

.PHONY: lint
lint: go ## golangci-lint, as .golangci.yml says
	@$(BIN)/golangci-lint run --allow-parallel-runners ./...

.PHONY: proto
proto: go ## check the API's definition and generate its code
	@cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf generate

.PHONY: golden
golden: go ## rewrite the golden files, then show what moved
	@go list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | \
	  awk '{for (i = 2; i <= NF; i++) if ($$i ~ /internal\/lab\/golden$$/) {print $$1; next}}' | xargs -r -I{} go test {} -update
	@git diff --stat

# Up to Go 1.26 a fuzz test may fail by its own limit of time alone, having found nothing:
# https://go.dev/issue/75804.
FUZZ_GO := go1.27.4

.PHONY: fuzz
fuzz: go ## run each fuzz test for T (T=30s)
	@git grep -l '^func Fuzz' -- '*_test.go' | xargs -r -n1 dirname | sort -u | while read -r dir; do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$dir/*_test.go); do \
	    echo "== $$dir $$f"; GOTOOLCHAIN=$(FUZZ_GO) go test ./$$dir -run '^$$' -fuzz "^$$f$$" -fuzztime $(T) -fuzzminimizetime 50x -parallel 1 || exit 1; done; done

.PHONY: bench
bench: go ## Go benchmarks
	@go test -run '^$$' -bench . -benchmem ./... | grep -v 'no test files'

.PHONY: bench-mesh
bench-mesh: go ## requests per second of the mesh beside what it is made of, where time is instructions (20 minutes)
	@hack/deps run
	@command -v wrk >/dev/null || apt-get install -y -qq --no-install-recommends wrk >/dev/null
	@$(MAKE) build runner
	@$(GO_BUILD) -o .build/bench ./internal/lab/cmd/bench
	@SLUICE_BIN=$(CURDIR)/.build/sluice $(RUNNER) -1 -t 2400 .build/bench
	@SLUICE_BIN=$(CURDIR)/.build/sluice $(RUNNER) -1 -t 2400 .build/bench stages

.PHONY: bench-scale
bench-scale: go ## a node with 10,000 services: load, change, memory, new connections; natively with nft, then with both balancers in a VM
	@hack/deps run
	@$(MAKE) runner
	@$(GO_BUILD) -o .build/benchscale ./internal/lab/cmd/benchscale
	@.build/benchscale
	@$(RUNNER) -t 2400 .build/benchscale -services 10000 -changes 3 -connections 300

.PHONY: bench-base
bench-base: go ## a node with 20,000 ports of its own, 100 networks, and what a new connection costs there (10 minutes)
	@hack/deps run
	@$(GO_BUILD) -o .build/benchscale ./internal/lab/cmd/benchscale
	@.build/benchscale -changes 5 ports
	@.build/benchscale -networks 100 -loads 1 -changes 4 networks
	@.build/benchscale -connections 6000 opening

.PHONY: bench-names
bench-names: go ## dnsperf against an endpoint's name server whose upstreams are dead, and beside 10,000 idle connections (a minute)
	@hack/deps run
	@command -v dnsperf >/dev/null || apt-get install -y -qq --no-install-recommends dnsperf >/dev/null
	@$(MAKE) build
	@$(GO_BUILD) -o .build/benchnames ./internal/lab/cmd/benchnames
	@SLUICE_BIN=$(CURDIR)/.build/sluice .build/benchnames

.PHONY: sim
sim: go ## 10 and 100 simulated nodes at 0, 5 and 20 % loss: what a change, a death and a split cost (10 minutes)
	@go test -count=1 -timeout 60m -v ./internal/lab/sim -run '^TestTable$$' -table 10,100 | grep '^|'

.PHONY: sim-fresh
sim-fresh: go
	@go test -count=1 ./internal/lab/sim -run '^TestSchedules$$' -budget 180s

.PHONY: sim-seeds
sim-seeds: go ## SEEDS fresh fault schedules (SEEDS=1000; 1,000 take hours)
	@go test -count=1 -timeout 24h ./internal/lab/sim -run '^TestSchedules$$' -count-seeds $(SEEDS)

.PHONY: sim-large
sim-large: go ## the table for 300 nodes, and a split of 10 minutes at 100 (hours)
	@go test -count=1 -timeout 24h -v ./internal/lab/sim -run '^TestTable$$' -table 300 | grep '^|'
	@go test -count=1 -timeout 24h -v ./internal/lab/sim -run '^TestTable$$' -table 100 -split 10m | grep '^|'

.PHONY: repair-table
repair-table: go ## what each sabotage costs, measured here, into docs/REPAIR.md (2 minutes)
	@hack/deps run
	@$(MAKE) build
	@go test -count=1 -run '^TestSurvival$$/^Sabotage$$' ./internal/lab/e2e -document

.PHONY: mutate
mutate: go ## take each rule and map of a node away, one after the other: docs/MUTATE.md says what notices (5 minutes)
	@hack/deps run
	@$(MAKE) build
	@go test -count=1 -timeout 60m -v ./internal/lab/e2e -run '^TestMutate$$' -mutate | grep -v '^=== '

.PHONY: cover
cover: go ## coverage of the tests that this kernel can carry, in cover.out
	@go test -coverprofile cover.out -coverpkg ./... ./... >/dev/null && go tool cover -func cover.out | tail -1

.PHONY: deps
deps: go ## install what is missing: Debian packages, pinned tools into .build/bin
	@hack/deps

.PHONY: clean
clean: ## remove what was built
	@rm -rf .build cover.out

# `make test` is all that CI runs. The others are parts of it, or more of one part:
#   make lint PKG=./wal        make unit PKG=./replicator/...      make race PKG=./agent/...
#   make fuzz FUZZ=FuzzRecv TIME=10m        make chaos ROUNDS=20   make docs
PKG ?= ./...
TIME ?= 1m
ROUNDS ?= 10
TOOLS = $(or $(POLLUX_TOOLS_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pollux-ci-tools)
export CGO_ENABLED ?= 0

.PHONY: build test lint unit race fuzz chaos docs
build:
	go build -o pollux ./cmd/pollux

test:
	.ci/run

lint: $(TOOLS)/staticcheck
	test -z "$$(gofmt -l $(PKG:/...=) | tee /dev/stderr)" && go vet $(PKG) && $(TOOLS)/staticcheck $(PKG)

$(TOOLS)/staticcheck: tools/go.mod
	go -C tools build -o $@ honnef.co/go/tools/cmd/staticcheck && touch $@

unit:
	go test -timeout 15m $$(go list $(PKG) | grep -v /systemtest)

race:
	CGO_ENABLED=1 go test -tags pebblegozstd -race -short -timeout 15m $$(go list $(PKG) | grep -v /systemtest)

fuzz:
	go test -run '^$$' -fuzz '^$(or $(FUZZ),$(error FUZZ=name is missing))$$' -fuzztime $(TIME) ./$$(dirname $$(grep -rl --include='*_test.go' '^func $(FUZZ)(' .))

chaos:
	go test -count=1 -timeout $$(( $(ROUNDS) * 10 + 5 ))m -v -run 'TestChaos$$' ./systemtest -chaos.rounds=$(ROUNDS)

docs:
	go test -count=1 -timeout 15m -run 'TestDocs$$' ./systemtest

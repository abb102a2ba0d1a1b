# `make test` is all that CI runs; `make chaos ROUNDS=n` more of the chaos test.
ROUNDS ?= 10

.PHONY: test chaos
test:
	.ci/run

chaos:
	CGO_ENABLED=0 go test -count=1 -timeout $$(( $(ROUNDS) * 10 + 5 ))m -v -run 'TestChaos$$' ./systemtest -chaos.rounds=$(ROUNDS)

# The only commands a user needs. Each installs what this machine lacks first.
.DEFAULT_GOAL := help
.PHONY: help setup up demo verify trace certs test test-faults fuzz bench docs lint down clean ps status logs scale

FLEET := .venv/bin/fleet
# Read by up and demo: cassandra, or berkeleyje, which is the default; 1 for tokens, passwords and TLS, or 0; 1 for more
# than one of what can be more than one, or 0.
export STORAGE SECURE CLUSTER

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what this machine lacks: containers, the Python environment
	@scripts/setup.sh

up: setup ## start everything and wait until it is ready; STORAGE=cassandra for that back end, SECURE=1 with all doors shut, CLUSTER=1 three of what can be
	@$(FLEET) up

demo: setup ## start everything, publish a data set (or DATA=folder), compare both stores with it
	@$(FLEET) demo $(if $(DATA),--data '$(DATA)')

verify: setup ## compare what was published with both stores: REPAIR=1 CONTENTS=1 TYPE=person LIMIT=100 FORMAT=json
	@$(FLEET) verify $(if $(REPAIR),--repair) $(if $(CONTENTS),--contents) $(if $(TYPE),--type '$(TYPE)') $(if $(LIMIT),--limit '$(LIMIT)') $(if $(FORMAT),--format '$(FORMAT)')

# The text itself: what an id holds is for neither make nor a shell to read.
unexport ID
trace: export TRACED = $(value ID)
trace: setup ## tell an entity's whole story: ID=123, and perhaps TYPE=person FORMAT=json
	$(if $(value ID),,$(error whose? make trace ID=123))
	@$(FLEET) verify trace $(if $(TYPE),--type '$(TYPE)') $(if $(FORMAT),--format '$(FORMAT)') -- -- "$$TRACED"

certs: setup ## make the secrets for SECURE=1 that are missing or end soon, and say when they end
	@$(FLEET) certs

test: setup ## run every test, against a stack of its own
	@scripts/test.sh

test-faults: setup ## kill, freeze and cut off the fleet at random and check every promise: MINUTES=30 SEED=1
	@FAULT_MINUTES='$(or $(MINUTES),5)' FAULT_SEED='$(or $(SEED),1)' .venv/bin/pytest -m slow -s tests/integration/faults/full

bench: setup ## measure the whole fleet end to end, on a stack of its own: EVENTS=40000 ROUNDS=3
	@.venv/bin/python benchmarks/end_to_end.py $(if $(EVENTS),--events '$(EVENTS)') $(if $(ROUNDS),--rounds '$(ROUNDS)')
	@.venv/bin/python benchmarks/plot.py

docs: setup ## build the documents as a site, into .state/site
	@.venv/bin/mkdocs build --quiet

fuzz: setup ## fuzz the decoder for a while, guided by coverage: SECONDS=600
	@.venv/bin/python tests/fuzz/decoding.py -max_total_time='$(or $(SECONDS),60)'

lint: setup ## check style and types
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

down: setup ## stop everything; the data stays
	@$(FLEET) down

clean: setup ## stop everything and remove the data
	@$(FLEET) clean

ps: setup ## show the containers
	@$(FLEET) ps

status: setup ## show flow, backlog, latency, dead letters and health; WATCH=1 shows it anew until Ctrl-C
	@$(FLEET) status $(if $(WATCH),--watch)

logs: setup ## follow a log: SERVICE=graph_consumer
	@$(FLEET) logs $(or $(SERVICE),$(error which one? make logs SERVICE=graph_consumer))

scale: setup ## run replicas of a consumer: SERVICE=graph_consumer N=3
	@$(FLEET) scale $(or $(SERVICE),$(error which one? make scale SERVICE=graph_consumer N=3)) $(or $(N),$(error how many? make scale SERVICE=$(SERVICE) N=3))

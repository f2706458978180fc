# The only commands a user needs. Each installs what this machine lacks first.
.DEFAULT_GOAL := help
.PHONY: help setup up demo test lint down clean ps logs scale

FLEET := .venv/bin/fleet

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what this machine lacks: containers, the Python environment
	@scripts/setup.sh

up: setup ## start everything and wait until it is ready
	@$(FLEET) up

demo: setup ## start everything, publish a data set (or DATA=folder), compare both stores with it
	@$(FLEET) demo $(if $(DATA),--data '$(DATA)')

test: setup ## run every test, against a stack of its own
	@scripts/test.sh

lint: setup ## check style and types
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

down: setup ## stop everything; the data stays
	@$(FLEET) down

clean: setup ## stop everything and remove the data
	@$(FLEET) clean

ps: setup ## show the containers
	@$(FLEET) ps

logs: setup ## follow a log: SERVICE=graph_consumer
	@$(FLEET) logs $(or $(SERVICE),$(error which one? make logs SERVICE=graph_consumer))

scale: setup ## run replicas of a consumer: SERVICE=graph_consumer N=3
	@$(FLEET) scale $(or $(SERVICE),$(error which one? make scale SERVICE=graph_consumer N=3)) $(or $(N),$(error how many? make scale SERVICE=$(SERVICE) N=3))

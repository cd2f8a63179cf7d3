.PHONY: setup check test slow eval serve size
setup:
	uv sync --frozen
check:
	uv run ruff check . && uv run ruff format --check . && uv run mypy && uv run lint-imports
test:
	uv run pytest
slow:
	uv run pytest -m slow
eval:
	uv run kernelwright eval run smoke
serve:
	uv run kernelwright serve
size:
	@find agent tools evals -name '*.py' | xargs wc -l | sort -rn | head -12

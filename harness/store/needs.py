"""Why something that a target needs is missing."""

from __future__ import annotations

from harness.store.store import Store, Target


def missing_need(store: Store, need: Target) -> str:
    """Why `need` has no result yet, in one line; where it is blocked itself, the reason for that."""
    state = store.state(need)
    word, error = state.get("state"), state.get("error")
    if word == "blocked" and error:
        return str(error)
    if word in ("failed", "cancelled"):
        return f"{need} {word}: {error or 'no reason noted'}"
    if need.kind == "training" and store.done_path(need.id).exists():
        return f"{need}: {store.weights_path(need.id)} is missing or cut short"
    if need.kind == "table" and store.table_path(need.id).exists():
        return f"{need}: {store.table_path(need.id)} is damaged or cut short"
    if need.kind == "encoding" and store.latents_facts(need.id).exists():
        return f"{need}: parts of {store.latents_folder(need.id)} are missing or cut short"
    return f"{need} has not finished"

"""fermyon:spin/llm: not offered, and every call says so in its own error type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from edge.engine.host import Err, Interface

__all__ = ["LLM", "UNVERSIONED"]

_BODY = """
  type inferencing-model = string;
  record inferencing-params {
    max-tokens: u32, repeat-penalty: f32, repeat-penalty-last-n-token-count: u32,
    temperature: f32, top-k: u32, top-p: f32
  }
  variant error { model-not-supported, runtime-error(string), invalid-input(string) }
  record inferencing-usage { prompt-token-count: u32, generated-token-count: u32 }
  record inferencing-result { text: string, usage: inferencing-usage }
  infer: func(model: inferencing-model, prompt: string, params: option<inferencing-params>)
    -> result<inferencing-result, error>;
  type embedding-model = string;
  record embeddings-usage { prompt-token-count: u32 }
  record embeddings-result { embeddings: list<list<f32>>, usage: embeddings-usage }
  generate-embeddings: func(model: embedding-model, text: list<string>)
    -> result<embeddings-result, error>;
"""


def _infer(_context: Any, _model: str, _prompt: str, _params: Any) -> NoReturn:
    _refuse()


def _generate_embeddings(_context: Any, _model: str, _text: list[str]) -> NoReturn:
    _refuse()


def _refuse() -> NoReturn:
    text = "edge does not offer language models; a service with HTTP is reachable"
    raise Err(("runtime-error", text))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "infer": _infer,
    "generate-embeddings": _generate_embeddings,
}

LLM = Interface(f"interface fermyon:spin/llm@2 {{ {_BODY} }}", functions=_FUNCTIONS)

UNVERSIONED = Interface(f"interface fermyon:spin/llm {{ {_BODY} }}", functions=_FUNCTIONS)

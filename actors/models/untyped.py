"""Names for the objects of libraries that ship without types: transformers and diffusers."""

from typing import Any, TypeAlias

Model: TypeAlias = Any
Tokenizer: TypeAlias = Any
Processor: TypeAlias = Any
Pipeline: TypeAlias = Any
Tensors: TypeAlias = Any  # a mapping of names to tensors that can be moved with .to

"""Network calls that fit into memory: fewer rows if it runs out, with the same bits or an error."""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from engine.errors import ModelError

LOG = logging.getLogger(__name__)
Rows = torch.Tensor | Sequence[object]
Run = Callable[..., torch.Tensor]


class Fitted:
    """Run a network on rows in calls of `num_rows` of them, the largest number that fits when it starts.

    If memory runs out later, for instance since another process uses the GPU, it first empties torch's cache and tries
    again; then it halves the calls. A row's bits may depend on the shape of its call, so smaller calls are used only if
    they reproduce the bits of an example; if not, a ModelError says what to do.
    """

    def __init__(self, run: Run, example: Sequence[Rows], *, name: str) -> None:
        self._run, self.example, self._name = run, example, name
        self.num_rows = self._call_rows = len(example[0])
        while (expected := self._tried(example)) is None:
            self._free()
            self._halve()
            self.num_rows = self._call_rows
            LOG.warning(
                "%s: out of memory, calls reduced to %d rows. Results can depend on the number: on GPUs of different "
                "memory set unet_rows and decode_batch_size for the whole run",
                name,
                self.num_rows,
            )
        self._expected = expected.cpu()

    def __call__(self, *arguments: Rows) -> torch.Tensor:
        """Return the outputs for any number of rows; each argument holds one value a row."""
        tries = 0
        while (output := self._tried(arguments)) is None:
            self._free()
            tries += 1
            if tries > 1:
                self._halve()
                self._check()
        return output

    def _check(self) -> None:
        """Raise ModelError unless calls of the present size give the example its bits."""
        while (output := self._tried(self.example)) is None:
            self._free()
            self._halve()
        if not torch.equal(output.cpu(), self._expected):
            raise ModelError(
                f"{self._name}: out of memory with {self.num_rows} rows a call, and {self._call_rows} give other bits: "
                f"set unet_rows or decode_batch_size to {self._call_rows} for the whole run, or free the GPU"
            )
        LOG.warning("%s: out of memory, calls reduced to %d rows, with the same bits", self._name, self._call_rows)

    def _halve(self) -> None:
        if self._call_rows == 1:
            raise ModelError(
                f"{self._name}: a single row does not fit into memory: lower size, or take a larger GPU or no neighbour"
            )
        self._call_rows = -(-self._call_rows // 2)

    def _tried(self, arguments: Sequence[Rows]) -> torch.Tensor | None:
        """Return the outputs, None if memory ran out."""
        num_rows = len(arguments[0])
        try:
            outputs = [self._run(*part) for part in _parts(arguments, self._call_rows)]
        except torch.OutOfMemoryError:
            return None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)[:num_rows]

    def _free(self) -> None:
        # Called after the error is gone: its stack frames hold the tensors of the call.
        gc.collect()
        torch.cuda.empty_cache()


def rows_that_pay(seconds: Callable[[int], float], most: int, *, gain: float = 1.03) -> int:
    """Return the smallest number of rows, of `most` and its halves, with about the best throughput.

    `seconds` times a call of a number of rows, and may raise torch.OutOfMemoryError. A larger call must be faster per
    row by `gain`: large pictures fill a GPU with two rows, and a smaller call leaves more memory and fewer unused rows.
    """
    sizes = [most]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    best, best_rate = 1, 0.0
    for size in reversed(sizes):
        try:
            rate = size / seconds(size)
        except torch.OutOfMemoryError:
            break
        if rate > best_rate * gain:
            best, best_rate = size, rate
    return best


def _parts(arguments: Sequence[Rows], size: int) -> Iterator[list[Rows]]:
    """Yield the rows in parts of one size; the last is filled up with its last row."""
    num_rows = len(arguments[0])
    for start in range(0, num_rows, size):
        part = [argument[start : start + size] for argument in arguments]
        missing = start + size - num_rows
        yield [_repeated(argument, missing) for argument in part] if missing > 0 and num_rows > size else part


def _repeated(rows: Rows, times: int) -> Rows:
    if isinstance(rows, torch.Tensor):
        return torch.cat([rows, rows[-1:].expand(times, *rows.shape[1:])])
    return [*rows, *[rows[-1]] * times]

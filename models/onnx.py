"""Scoring: the only door to ONNX Runtime.

In the way of an event between features and policy. A model comes as bytes whose sha256 was announced; it is
checked, loaded, warmed and compared with its golden rows before it may decide anything. A score depends on
its own row alone, bit for bit, however rows are split into batches: replay and Flink write the same bytes.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.artifact import Artifact
from schemas.errors import ModelRejected

LIMIT = 64 << 20  # bytes of a model
CHUNK = 256  # rows a call: a row costs least from here on
PADDED = 64  # rows a call where all calls have to be of one size: few events are not to cost as much as many
TOLERANCE = 1e-5  # of a golden row's score


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TREES = _names("TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor")
# Same bits for a row wherever it is: rounded as IEEE 754 says, or only moved, or found so (trees, sigmoid).
_EXACT = _names(
    "Abs Add And Cast Ceil Clip Concat Constant Div Equal Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity IsInf IsNaN LeakyRelu Less LessOrEqual Max Mean Min Mul Neg Not Or Relu "
    "Reshape Round Shape Sigmoid Sign Slice Split Sqrt Squeeze Sub Sum Transpose Unsqueeze Where Xor"
)
# Same bits in calls of one size: other paths for one row than for many, for what is left over of a vector.
_BY_SIZE = _names("Elu Erf Exp Gemm Log MatMul Reciprocal Softplus Tanh")
# Other bits at another place in memory: scored one row a call. In none of the three is control flow or a random number.
_BY_PLACE = _names(
    "ArgMax ArgMin BatchNormalization LayerNormalization LogSoftmax Pow ReduceL1 ReduceL2 ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax TopK"
)
_LEARNING = _names(
    "ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LinearClassifier LinearRegressor Normalizer "
    "SVMClassifier SVMRegressor Scaler"
)
_ALLOWED = {"": _EXACT | _BY_SIZE | _BY_PLACE, "ai.onnx.ml": _TREES | _LEARNING}


def _messages(message: Any) -> Iterator[Any]:
    """Every protobuf message inside `message`: all tensors and nodes, of subgraphs and functions too."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                yield child
                yield from _messages(child)


def _refuse(found: str, expected: str) -> ModelRejected:
    return ModelRejected(f"ONNX model: found {found}, expected {expected}; convert it again without that")


def _contents(model: bytes) -> tuple[onnx.ModelProto, set[str]]:
    """The parsed model and the operators it uses; refuses what must not even be loaded."""
    if len(model) > LIMIT:
        raise _refuse(f"{len(model)} bytes", f"at most {LIMIT}")
    try:
        proto = onnx.ModelProto.FromString(model)
    except Exception as e:  # protobuf's DecodeError, whose module has no types
        raise _refuse(f"{len(model)} bytes that are no ONNX ({e})", "a serialised ModelProto") from e
    for opset in proto.opset_import:
        if opset.domain not in (*_ALLOWED, "ai.onnx"):
            raise _refuse(f"operator domain {opset.domain!r}", "only ai.onnx and ai.onnx.ml")
    used: set[str] = set()
    for m in _messages(proto):
        if isinstance(m, onnx.TensorProto) and (m.external_data or m.data_location == m.EXTERNAL):
            raise _refuse(f"tensor {m.name!r} with data outside of the model", "all data inside it")
        if isinstance(m, onnx.FunctionProto | onnx.TrainingInfoProto):
            raise _refuse(type(m).__name__, "one plain graph")
        if isinstance(m, onnx.NodeProto):
            domain = "" if m.domain == "ai.onnx" else m.domain
            if m.op_type not in _ALLOWED.get(domain, ()):
                hint = " (with lightgbm or scikit-learn: zipmap=False)" if m.op_type == "ZipMap" else ""
                found = f"operator {domain or 'ai.onnx'}.{m.op_type}"
                raise _refuse(found, f"one that models/onnx.py allows{hint}")
            used.add(m.op_type)
    return proto, used


def _ports(proto: onnx.ModelProto, n_features: int) -> tuple[str, str]:
    """Names of the one input float32[n, n_features] and of the one float output [n], [n, 1] or [n, 2]."""
    constants = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise _refuse(f"inputs {[i.name for i in inputs]}", f"one, float32[n, {n_features}]")
    tensor = inputs[0].type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or shape != [None, n_features]:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        found = f"input {inputs[0].name!r} {kind}{shape}"
        raise _refuse(found, f"FLOAT[None, {n_features}], one column a feature")
    outputs = [o for o in proto.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    if len(outputs) != 1:
        raise _refuse(f"float outputs {[o.name for o in outputs]}", "one, the probability of class 1")
    return inputs[0].name, outputs[0].name


def check(model: bytes, n_features: int) -> None:
    """Raise ModelRejected, with the reason, where `model` may not be loaded or has no score's ports."""
    _ports(_contents(model)[0], n_features)


def _providers() -> list[object]:
    """CUDA where there is a GPU (no TF32: it is coarser than the golden rows' tolerance), else the CPU."""
    built = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    gpu = [("CUDAExecutionProvider", {"use_tf32": "0"})] if built and Path("/dev/nvidiactl").exists() else []
    return [*gpu, "CPUExecutionProvider"]


class Session:
    """An artifact ready to score: checked, loaded from its bytes, warmed, and equal to its golden rows.

    Not for two threads at once. `sha256` is what was announced, where it was.
    Trees run on the CPU everywhere: ONNX Runtime has no other kernel for them.
    Raises ModelRejected where anything is not as expected.
    """

    def __init__(self, artifact: Artifact, sha256: str | None = None, device: Literal["auto", "cpu"] = "auto") -> None:
        self.artifact = artifact
        found = hashlib.sha256(artifact.onnx).hexdigest()
        if found != (sha256 or artifact.sha256):
            raise ModelRejected(f"model {artifact.version}: found sha256 {found}, announced was {sha256}")
        proto, used = _contents(artifact.onnx)
        self._input, self._output = _ports(proto, len(artifact.features))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails raises
        options.add_session_config_entry("session.load_model_format", "ONNX")  # as was checked; some bytes are two
        self._proven = False
        providers = ["CPUExecutionProvider"] if device == "cpu" or used & _TREES else _providers()
        try:
            self._session = onnxruntime.InferenceSession(artifact.onnx, options, providers=providers)
            self.provider: str = self._session.get_providers()[0]
            self._buffer = self._fitting(used)
            golden = self._prove()
        except ModelRejected:
            raise
        except Exception as e:  # ONNX Runtime's own errors have no common base
            raise ModelRejected(f"model {artifact.version}: ONNX Runtime refused it: {e}") from e
        self._proven = True
        worst = int(np.argmax(np.abs(golden - artifact.expected)))
        if not abs(golden[worst] - artifact.expected[worst]) <= TOLERANCE:
            raise ModelRejected(
                f"model {artifact.version}, golden row {worst}: found score {golden[worst]!r}, expected "
                f"{artifact.expected[worst]!r} within {TOLERANCE}; its features or its conversion changed"
            )

    def _fitting(self, used: set[str]) -> NDArray[np.float32] | None:
        """Into what rows must be copied for a score to depend on its row alone: nothing, a chunk, one row."""
        if used <= _EXACT | _TREES:
            return None
        return self._aligned(PADDED if used <= _EXACT | _TREES | _BY_SIZE else 1)

    def _aligned(self, n: int) -> NDArray[np.float32]:
        """float32[n, f] of zeros that begins at a multiple of 64 bytes, in every process."""
        f = len(self.artifact.features)
        raw = np.zeros(n * f + 16, np.float32)
        skip = -raw.ctypes.data % 64 // 4
        return raw[skip : skip + n * f].reshape(n, f)

    def _prove(self) -> NDArray[np.float64]:
        """Warm it up and return the golden rows' scores; falls back to one row a call where company shows."""
        rows = self.artifact.golden
        scores = self.score(rows)
        if any(self.score(row[None])[0] != s for row, s in zip(rows, scores, strict=True) if np.isfinite(s)):
            self._buffer = self._aligned(1)
            scores = self.score(rows)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise _refuse(f"scores {scores[:5]} for the golden rows", "numbers from 0 to 1")
        return scores

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64[k], the probability of class 1 of each of `rows` float32[k, f]; NaN where it cannot be computed."""
        scores = np.empty(len(rows))
        step = CHUNK if self._buffer is None else len(self._buffer)
        for lo in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[lo : lo + step])
            k = len(part)
            if self._buffer is not None:
                self._buffer[:k], self._buffer[k:] = part, part[0]  # nothing of an earlier call
                part = self._buffer
            try:
                out = self._session.run([self._output], {self._input: part})[0]
            except Exception:  # as from a missing value that is looked up: no answer to that row, and to no other
                if not self._proven:
                    raise
                scores[lo : lo + k] = self._apart(part[:k].copy())
                continue
            if out.shape not in ((len(part),), (len(part), 1), (len(part), 2)):
                expected = "[n], [n, 1], or [n, 2] with class 1 second"
                raise _refuse(f"output {out.shape} for {len(part)} rows", expected)
            scores[lo : lo + k] = out.reshape(len(part), -1)[:k, -1]
        return scores

    def _apart(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same, each row by itself."""
        scores = np.full(len(rows), np.nan)
        for i, row in enumerate(rows):
            part = self._buffer if self._buffer is not None else row[None]
            part[:] = row
            with suppress(Exception):  # whatever ONNX Runtime raises, whose errors have no common base
                scores[i] = self._session.run([self._output], {self._input: part})[0].reshape(len(part), -1)[0, -1]
        return scores

    def contributions(
        self, rows: NDArray[np.float32], baseline: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """float64[k, f]: by how much each feature raised the score of each of `rows` float32[k, f].

        Ablation: the score less what it would be with that feature at its baseline (None: the artifact's).
        """
        k, f = rows.shape
        usual = np.array(self.artifact.baseline, np.float32) if baseline is None else baseline
        changed = np.repeat(rows[:, None, :], f + 1, axis=1)
        changed[:, np.arange(f), np.arange(f)] = usual  # the last copy stays as it is
        scores = self.score(changed.reshape(k * (f + 1), f)).reshape(k, f + 1)
        return scores[:, -1:] - scores[:, :f]

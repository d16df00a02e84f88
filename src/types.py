"""Types of options and arguments: choices by name, and numbers with bounds. Light to import."""

from typing import Annotated, Literal

from msgspec import Meta

Precision = Literal["32", "bf16"]
PrecisionChoice = Literal["auto", "32", "bf16"]
FrameRuleName = Literal["centre", "released"]
NarrationSource = Literal["human", "pseudo"]
FrameOrder = Literal["forward", "backward", "shuffled", "frozen"]
FeatureKind = Literal["dual", "projected", "unit", "fused", "transformed", "trunk"]
PerQueryKind = Literal["fused", "transformed"]
Split = Literal["val", "test"]
EmbeddingKind = Literal["float16", "int8", "pq"]
CodesKind = Literal["int8", "pq"]
StepVariant = Literal["unshared", "one_graph", "compiled", "trunk_anew", "all_anew"]
ExportFormat = Literal["onnx", "torch"]
BenchPart = Literal["reader", "loader", "forward", "step", "moments", "summary", "retrieval", "search"]

NonNegativeInt = Annotated[int, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
NumTokens = Annotated[int, Meta(ge=1, le=1_000_000)]  # no text tower takes more, and tokenizers abort at far more
TextLength = Annotated[int, Meta(ge=3, le=1_000_000)]  # tokens of the longest text, special ones included
NumWorkers = Annotated[int, Meta(ge=0, le=1000)]  # processes, some 300 MB each
Seconds = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(gt=0, le=1000)]  # frames a second
ImageRate = Annotated[float, Meta(ge=0.001, le=1000)]  # pictures a second; slower, a few would last for days
OutputRate = Annotated[float, Meta(ge=1, le=1000)]  # of a video to write, which may last seconds
MaximumRate = Annotated[float, Meta(ge=0, le=1000)]  # 0 for none
NumFrames = Annotated[int, Meta(ge=1, le=10_000)]  # of a clip, as the video tower takes them
Side = Annotated[int, Meta(ge=1, le=8192)]  # pixels
ShortSide = Annotated[int, Meta(ge=16, le=8192)]  # of a video to write, pixels
ChunkLength = Annotated[float, Meta(ge=1)]  # seconds
Crf = Annotated[int, Meta(ge=0, le=51)]  # x264's constant rate factor
Fraction = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
FiveOrMore = Annotated[int, Meta(ge=5, le=2**31)]
LongSeconds = Annotated[float, Meta(ge=5)]
Mfu = Annotated[float, Meta(gt=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]  # 0 for any that is free
Milliseconds = Annotated[float, Meta(ge=0.001)]

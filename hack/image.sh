#!/usr/bin/env bash
# The operator's image: wheels fetched on the host, copied onto the base image; then the package.
# Two images, so that a change in the source rebuilds and reloads only the small one on top.

OPERATOR_REPOSITORY=asetwin.local/operator

# Where the package is taken from; tests of this script point it elsewhere.
OPERATOR_SOURCE=${ASETWIN_OPERATOR_SOURCE:-$ROOT_DIR/operator/asetwin}

# "3.11 amd64" of the base image, asked once per image.
base_python() {
	local id file
	id=$(docker image inspect -f '{{.Id}} {{.Architecture}}' "$BASE_IMAGE")
	file=$CACHE/base-python-$(hash_of "$id")
	if [[ ! -s $file ]]; then
		docker run --rm "$BASE_IMAGE" python3 -c \
			'import sys; print("%d.%d" % sys.version_info[:2])' >"$file.$$"
		mv "$file.$$" "$file"
	fi
	echo "$(cat "$file") ${id##* }"
}

wheels_dir() {
	printf '%s/wheels-%s' "$CACHE" "$(hash_of "$HACK_DIR/requirements/runtime.txt" "$1" "$2")"
}

# Wheels only, for the image's Python and processor, each checked against its pinned hash.
wheels_build() {
	local scratch=$1 version=$2 arch=$3 platforms=() glibc machine=x86_64
	[[ $arch != arm64 ]] || machine=aarch64
	for glibc in 2014 _2_17 _2_28 _2_34; do platforms+=(--platform "manylinux${glibc}_$machine"); done
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
		--target "$scratch/lib" --python-version "$version" --implementation cp "${platforms[@]}" \
		--only-binary=:all: --require-hashes -r "$HACK_DIR/requirements/runtime.txt"
	# Nothing in the image runs these, and they name this machine's Python.
	rm -rf "$scratch/lib/bin"
}

dependencies_image() {
	printf '%s-dependencies:%s' "$OPERATOR_REPOSITORY" "$(hash_of \
		"$(docker image inspect -f '{{.Id}}' "$BASE_IMAGE")" "$HACK_DIR/requirements/runtime.txt" \
		"$HACK_DIR/image.d/Dockerfile.dependencies" "$HACK_DIR/image.d/launcher")"
}

dependencies_build() {
	local image=$1 version arch wheels work
	read -r version arch < <(base_python)
	wheels=$(wheels_dir "$version" "$arch")
	cached "$wheels" wheels_build "$version" "$arch"
	work=$(mktemp -d)
	# shellcheck disable=SC2064  # the value of now
	trap "rm -rf '$work'" EXIT
	cp -Rl "$wheels/lib" "$work/lib" 2>/dev/null || cp -R "$wheels/lib" "$work/lib"
	cp "$HACK_DIR/image.d/launcher" "$work/asetwin"
	cp "$HACK_DIR/image.d/launcher" "$work/kubectl-ase"
	cp "$HACK_DIR/image.d/Dockerfile.dependencies" "$work/Dockerfile"
	image_build "$image" "$work" --build-arg "BASE_IMAGE=$BASE_IMAGE"
}

# The classic builder is always there; BuildKit only where the buildx plugin is installed.
image_build() {
	local image=$1 context=$2
	shift 2
	if docker buildx version >/dev/null 2>&1; then
		DOCKER_BUILDKIT=1 docker build -q --load -t "$image" "$@" "$context"
	else
		DOCKER_BUILDKIT=0 docker build -q -t "$image" "$@" "$context"
	fi
}

# Names and contents of all source files, whatever is committed and whatever is not.
source_hash() {
	(
		cd "$OPERATOR_SOURCE" || exit
		find . -type f ! -path '*/__pycache__/*' ! -name '.*' -print0 | sort -z | xargs -0 sha256sum
	) | sha256sum | cut -c1-12
}

operator_image() {
	printf '%s:%s' "$OPERATOR_REPOSITORY" "$(hash_of "$(dependencies_image)" "$(source_hash)" \
		"$HACK_DIR/image.d/Dockerfile")"
}

operator_build() {
	local image=$1 dependencies work
	if has_image "$image"; then
		docker tag "$image" "$OPERATOR_REPOSITORY:dev"
		note cached
		return
	fi
	dependencies=$(dependencies_image)
	has_image "$dependencies" || dependencies_build "$dependencies"
	work=$(mktemp -d)
	# shellcheck disable=SC2064  # the value of now
	trap "rm -rf '$work'" EXIT
	mkdir "$work/asetwin"
	tar -C "$OPERATOR_SOURCE" --exclude=__pycache__ -c . | tar -C "$work/asetwin" -x
	cp "$HACK_DIR/image.d/Dockerfile" "$work/"
	image_build "$image" "$work" --build-arg "DEPENDENCIES_IMAGE=$dependencies"
	docker tag "$image" "$OPERATOR_REPOSITORY:dev"
	# A day of development leaves dozens.
	prune_images "$OPERATOR_REPOSITORY" 6
	prune_images "$OPERATOR_REPOSITORY-dependencies" 3
	note built
}

# ensure_operator_image: sets OPERATOR_IMAGE.
ensure_operator_image() {
	[[ -d $OPERATOR_SOURCE ]] || die "there is no operator to build: $OPERATOR_SOURCE is missing"
	ensure_venv
	lock image
	OPERATOR_IMAGE=$(operator_image)
	export OPERATOR_IMAGE
	step "Operator image $OPERATOR_IMAGE" operator_build "$OPERATOR_IMAGE"
}

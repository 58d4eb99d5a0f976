#!/usr/bin/env bash
# Which of the two machines is this? (a) A Docker engine that reaches a registry: stock images.
# (b) Anything else: hack/airgap provides engine and images. The answer only sets image names; all
# other code is the same.

# shellcheck source=hack/airgap/engine.sh
source "$AIRGAP_DIR/engine.sh"
# shellcheck source=hack/airgap/images.sh
source "$AIRGAP_DIR/images.sh"

MODE_FILE=$STATE/mode # "stock" or "airgap", as found out earlier

# Asked once and remembered: a registry that is slow today must not turn into another set of images
# tomorrow. ASETWIN_AIRGAP=1|0 overrules and is remembered in turn.
detect_mode() {
	local mode
	case ${ASETWIN_AIRGAP:-} in
	1) mode=airgap ;;
	0) mode=stock ;;
	'')
		if [[ -f $MODE_FILE ]]; then
			mode=$(cat "$MODE_FILE")
		elif ! engine_is_ours && engine_answers 10 && registry_answers; then
			mode=stock
		else
			mode=airgap
		fi
		;;
	*) die "ASETWIN_AIRGAP is '$ASETWIN_AIRGAP'" "It may be 1 (build all images), 0 (use a registry), or unset." ;;
	esac
	printf '%s\n' "$mode" >"$MODE_FILE.$$" && mv "$MODE_FILE.$$" "$MODE_FILE"
	MODE=$mode
	if [[ $MODE == stock ]]; then
		NODE_IMAGE=$STOCK_NODE_IMAGE BASE_IMAGE=$STOCK_BASE_IMAGE
	else
		NODE_IMAGE=$(airgap_node_image) BASE_IMAGE=$(airgap_base_image)
	fi
	export MODE NODE_IMAGE BASE_IMAGE
}

# One small question, bounded; an image that is already here needs no registry.
registry_answers() {
	docker image inspect "$STOCK_NODE_IMAGE" "$STOCK_BASE_IMAGE" >/dev/null 2>&1 ||
		timeout 15 docker manifest inspect "$STOCK_BASE_IMAGE" >/dev/null 2>&1
}

# ---------------------------------------------------------------- engine and images, as steps

ensure_engine() {
	if [[ $MODE == stock ]]; then
		engine_answers 20 ||
			die "the Docker engine does not answer" \
				"Start it; or build everything here instead: ASETWIN_AIRGAP=1 $0 (root on Debian)."
		return
	fi
	if engine_answers 10; then return; fi
	lock engine
	step "Docker engine: packages" engine_install
	step "Docker engine: start" engine_start
	unlock engine
}

ensure_images() {
	if has_image "$NODE_IMAGE" && has_image "$BASE_IMAGE"; then
		return
	fi
	if [[ $MODE == stock ]]; then
		step "Pull $NODE_IMAGE" docker pull "$NODE_IMAGE"
		step "Pull $BASE_IMAGE" docker pull "$BASE_IMAGE"
		return
	fi
	lock build
	airgap_check_machine
	airgap_build_components
	step "Base image" once_image airgap_build_base_image "$BASE_IMAGE"
	step "Node image" once_image airgap_build_node_image "$NODE_IMAGE"
	prune_images asetwin.local/node 3
	prune_images asetwin.local/python 3
	unlock build
}

# prune_images REPOSITORY FIRST-TO-GO: the newest few stay, and the engine keeps what is in use.
prune_images() {
	docker images --format '{{.Repository}}:{{.Tag}}' "$1" | grep -v ':dev$' | tail -n "+$2" |
		xargs -r docker rmi >/dev/null 2>&1 || true
}

# once_image BUILDER IMAGE: another run may have built it while this one waited for the lock.
once_image() {
	if has_image "$2"; then note cached; else "$@"; fi
}

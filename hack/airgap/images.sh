#!/usr/bin/env bash
# The two images that a registry would give elsewhere: kind's node image and a Python base image,
# built from the components in components.sh. An image's name carries the hash of all that it is
# made of, so "is it there?" is one question to the engine.

# shellcheck source=hack/airgap/components.sh
source "$HACK_DIR/airgap/components.sh"

AIRGAP_MODULES=(kubernetes pause containerd etcd crictl coredns localpath)

airgap_node_image() {
	local module parts=()
	for module in "${AIRGAP_MODULES[@]}"; do parts+=("$(programs_key "$module")"); done
	parts+=("$(rootfs_key node)" "$(rootfs_key net)" "$KIND_VERSION" "$KUBERNETES_VERSION"
		"$AIRGAP_DIR/images.sh" "$AIRGAP_DIR/files/podnet.sh" "$AIRGAP_DIR/files/default-cni.yaml")
	printf 'asetwin.local/node:%s' "$(hash_of "${parts[@]}")"
}

airgap_base_image() {
	printf 'asetwin.local/python:%s' "$(hash_of "$(rootfs_key python)")"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

airgap_build_base_image() {
	local image=$1
	docker import --change 'CMD ["python3"]' "$(rootfs_dir python)/root.tar" "$image"
}

# ---------------------------------------------------------------- the node image

kind_source() {
	local found
	found=$(cd / && go mod download -json "sigs.k8s.io/kind@$KIND_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	[[ -d $found ]] || die "kind's source $KIND_VERSION is not to be had" \
		"Try: go mod download sigs.k8s.io/kind@$KIND_VERSION"
	printf '%s' "$found"
}

# Build in a directory of its own, in a container of its own; both go however this ends.
airgap_build_node_image() {
	local image=$1 work container=asetwin-node-build-$$
	work=$(mktemp -d)
	# shellcheck disable=SC2064  # the values of now
	trap "docker rm -f '$container' >/dev/null 2>&1 || true; rm -rf '$work'" EXIT
	node_overlay "$work/overlay"
	node_root_image "$work" "$image-root"
	docker run -d --name "$container" --entrypoint sleep "$image-root" infinity
	node_runtime_spec "$container"
	component_images "$work" "$container"
	docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' \
		"$container" "$image"
	docker rm -f "$container"
	docker rmi "$image-root" || true
}

# All files that lie over the Debian root: kind's own (from its module, as released), programs,
# and the edits that hosts like this one need.
node_overlay() {
	local root=$1 kind files program
	kind=$(kind_source)
	files=$kind/images/base/files
	mkdir -p "$root"/{etc,kind/manifests,usr/bin,usr/local/bin,opt/cni/bin,etc/kubernetes/manifests}
	cp -R --no-preserve=mode "$files/." "$root/"
	chmod 0755 "$root"/usr/local/bin/* "$root"/kind/bin/*
	node_config_edits "$root"

	cp "$(programs_dir kubernetes)"/{kubeadm,kubelet,kubectl} "$root/usr/bin/"
	cp "$(programs_dir containerd)"/* "$(programs_dir crictl)"/* "$root/usr/local/bin/"
	for program in host-local loopback ptp portmap; do
		ln -s "/usr/lib/cni/$program" "$root/opt/cni/bin/$program"
	done

	printf '%s' "$KUBERNETES_VERSION" >"$root/kind/version"
	cp "$AIRGAP_DIR/files/default-cni.yaml" "$root/kind/manifests/default-cni.yaml"
	storage_manifest "$kind" >"$root/kind/manifests/default-storage.yaml"
}

# Lowering a process's OOM score below its parent's needs CAP_SYS_RESOURCE; where it is missing,
# containerd must not try, for itself or for a container.
node_config_edits() {
	local root=$1 unit units=$1/etc/systemd/system
	sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' \
		"$root/etc/containerd/config.toml"
	grep -q 'restrict_oom_score_adj = true' "$root/etc/containerd/config.toml"
	sed -i '/^OOMScoreAdjust=/d' "$units/containerd.service"
	# `systemctl enable`, written by hand: there is no systemd to ask while building.
	mkdir -p "$units/multi-user.target.wants"
	for unit in kubelet containerd undo-mount-hacks; do
		ln -s "/etc/systemd/system/$unit.service" "$units/multi-user.target.wants/$unit.service"
	done
}

LOCALPATH_IMAGE=asetwin.local/local-path-provisioner:$LOCALPATH_VERSION
LOCALPATH_HELPER_IMAGE=asetwin.local/local-path-helper:$LOCALPATH_VERSION

# kind's storage manifest as it stands in its source, with the images that were built here.
storage_manifest() {
	awk '/^const defaultStorageManifest = `/ {inside = 1; next} inside && /^`/ {exit} inside' \
		"$1/pkg/build/nodeimage/const_storage.go" |
		sed -e "s,\` + storageProvisionerImage + \`,$LOCALPATH_IMAGE," \
			-e "s,\` + storageHelperImage + \`,$LOCALPATH_HELPER_IMAGE," |
		grep . || die "kind's storage manifest was not found in its source"
}

# `docker import` cannot set the stop signal that systemd wants; a Dockerfile can.
node_root_image() {
	local work=$1 tag=$2
	docker import "$(rootfs_dir node)/root.tar" "$tag-plain"
	printf '%s\n' "FROM $tag-plain" 'COPY overlay /' 'ENV container=docker' \
		'STOPSIGNAL SIGRTMIN+3' 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' \
		>"$work/Dockerfile"
	DOCKER_BUILDKIT=0 docker build -t "$tag" "$work"
	docker rmi "$tag-plain"
}

# Every container in a node starts from this: runc's default, with kind's hook that hides the
# host's product files, and without limits that only the host could raise.
node_runtime_spec() {
	docker exec "$1" bash -euc 'ctr oci spec |
		jq ".hooks.createContainer += [{\"path\": \"/kind/bin/mount-product-files.sh\"}]
			| del(.process.rlimits)" >/etc/containerd/cri-base.json'
}

# ---------------------------------------------------------------- the images inside the node image

NET_IMAGE=asetwin.local/net:build # the base of what needs iptables

# component_images WORK CONTAINER: one static program each, under the names kubeadm asks for.
component_images() {
	local work=$1 container=$2 names name images=()
	names=$(docker exec "$container" kubeadm config images list \
		--kubernetes-version "$KUBERNETES_VERSION" 2>/dev/null | grep -v /pause:)
	names+=$'\n'$(docker exec "$container" sed -n 's/.*sandbox_image = "\(.*\)".*/\1/p' \
		/etc/containerd/config.toml)
	names+=$'\n'$LOCALPATH_IMAGE$'\n'$LOCALPATH_HELPER_IMAGE$'\nasetwin.local/podnet:node'
	docker import "$(rootfs_dir net)/root.tar" "$NET_IMAGE"
	for name in $names; do
		component_image "$work/image" "$name"
		images+=("$name")
	done
	docker exec -d "$container" containerd
	docker exec "$container" timeout 60 bash -c \
		'until [[ -S /run/containerd/containerd.sock ]] && ctr version >/dev/null 2>&1; do sleep 0.2; done'
	# Content only: each node unpacks what it runs.
	docker save "${images[@]}" | docker exec -i "$container" ctr --namespace=k8s.io images import \
		--label=io.cri-containerd.pinned=pinned --no-unpack -
	docker exec "$container" ctr --namespace=k8s.io images list -q
	docker exec "$container" pkill containerd
	docker exec "$container" timeout 20 bash -c 'while pgrep -x containerd >/dev/null; do sleep 0.1; done'
	docker rmi "${images[@]}" "$NET_IMAGE"
}

component_image() {
	local root=$1 name=$2 short
	short=${name##*/}
	short=${short%%:*}
	rm -rf "$root"
	mkdir -p "$root/usr/local/bin" "$root/tmp" "$root/etc"
	chmod 1777 "$root/tmp"
	case $short in
	kube-apiserver | kube-controller-manager | kube-scheduler)
		cp "$(programs_dir kubernetes)/$short" "$root/usr/local/bin/"
		import_image "$root" "$name" ;;
	kube-proxy)
		cp "$(programs_dir kubernetes)/$short" "$root/usr/local/bin/"
		import_image "$root" "$name" '' "$NET_IMAGE" ;;
	podnet)
		cp "$AIRGAP_DIR/files/podnet.sh" "$root/usr/local/bin/podnet"
		import_image "$root" "$name" podnet "$NET_IMAGE" ;;
	etcd) cp "$(programs_dir etcd)/etcd" "$root/usr/local/bin/" && import_image "$root" "$name" ;;
	coredns)
		cp "$(programs_dir coredns)/coredns" "$root/usr/local/bin/"
		import_image "$root" "$name" coredns ;;
	pause)
		cp "$(programs_dir pause)/pause" "$root/usr/local/bin/"
		import_image "$root" "$name" pause ;;
	local-path-provisioner)
		cp "$(programs_dir localpath)/local-path-provisioner" "$root/usr/local/bin/"
		import_image "$root" "$name" ;;
	local-path-helper)
		mkdir "$root/bin"
		cp /bin/busybox "$root/bin/"
		for short in sh mkdir rm; do ln -s busybox "$root/bin/$short"; done
		import_image "$root" "$name" ;;
	*) die "kubeadm asks for $name, and hack/airgap does not know what that is made of" ;;
	esac
}

# import_image ROOT NAME [ENTRYPOINT [BASE-IMAGE]]
import_image() {
	local root=$1 name=$2 entrypoint=${3:-} base=${4:-}
	local change=('ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')
	[[ -z $entrypoint ]] || change+=("ENTRYPOINT [\"/usr/local/bin/$entrypoint\"]")
	if [[ -n $base ]]; then
		printf '%s\n' "FROM $base" 'COPY usr /usr' "${change[@]}" >"$root/Dockerfile"
		DOCKER_BUILDKIT=0 docker build -q -t "$name" "$root"
	else
		tar -C "$root" --owner=0 --group=0 -c . | docker import "${change[@]/#/--change=}" - "$name"
	fi
}

# ---------------------------------------------------------------- all components

airgap_check_machine() {
	[[ $EUID == 0 ]] || die "building a node image needs root (debootstrap)" \
		"Run as root, or use a Docker engine that reaches a registry: ASETWIN_AIRGAP=0."
	[[ $(uname -m) == x86_64 ]] || die "hack/airgap builds for x86_64 only, this is $(uname -m)"
	need_command go "Install Go 1.26 or newer."
	need_command debootstrap "Install it: apt-get install debootstrap"
	need_space "$CACHE" 5 "the component cache"
	need_space "$(docker info --format '{{.DockerRootDir}}')" 4 "the image store"
	check_pins
}

# Two lanes: compilers keep the processors busy, debootstrap mostly waits for the network and the
# disk. The programs' lane is the long one and begins with its longest.
airgap_build_components() {
	local module lane begin log=$STATE/logs/root-file-systems-$$.log
	begin=$(now_ms)
	say "==> Root file systems: begun in the background (log: $log)"
	airgap_build_rootfs >"$log" 2>&1 &
	lane=$!
	on_exit "kill_tree $lane"
	for module in "${AIRGAP_MODULES[@]}"; do step "Build $module" programs "$module"; done
	wait "$lane" || {
		tail -n 30 "$log" | sed 's/^/    | /' >&2
		die "building the root file systems failed" "Full log: $log"
	}
	rm -f "$log"
	say "==> Root file systems ... ready $(seconds_since "$begin") s after they were begun"
}

airgap_build_rootfs() {
	local kind
	for kind in node net python; do rootfs "$kind"; done
}

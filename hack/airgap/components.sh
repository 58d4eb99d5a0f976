#!/usr/bin/env bash
# What the images are made of, where no registry can be reached: programs built from Go modules,
# and root file systems from Debian packages. Each component is cached under a hash of its inputs
# in $CACHE/airgap, so a change rebuilds only what depends on it.
#
# Sourced by lib.sh's callers through airgap/images.sh.

AIRGAP_CACHE=$CACHE/airgap

# ---------------------------------------------------------------- programs

# The k8s.io version package is what `kubectl version` and kubeadm's own checks read.
kubernetes_ldflags() {
	local package=k8s.io/component-base/version minor=${KUBERNETES_VERSION#v1.}
	printf '%s ' -s -w \
		-X "$package.gitVersion=$KUBERNETES_VERSION" -X "$package.gitMajor=1" \
		-X "$package.gitMinor=${minor%%.*}" -X "$package.gitTreeState=clean" \
		-X "$package.gitCommit=unknown" -X "$package.buildDate=1970-01-01T00:00:00Z"
}

containerd_ldflags() {
	printf '%s ' -s -w -X "github.com/containerd/containerd/v2/version.Version=$CONTAINERD_VERSION"
}

# Module → what its ldflags are, which build tags, which main packages. CGO is off throughout: a
# static program runs in an image whose C library is older than this machine's.
programs_ldflags() {
	case $1 in
	kubernetes) kubernetes_ldflags ;;
	containerd) containerd_ldflags ;;
	crictl) printf '%s ' -s -w -X "sigs.k8s.io/cri-tools/pkg/version.Version=$CRICTL_VERSION" ;;
	*) printf '%s ' -s -w ;;
	esac
}

programs_tags() {
	[[ $1 != containerd ]] || printf 'no_aufs,no_zfs,no_btrfs,no_devmapper'
}

programs_packages() {
	if [[ $1 == pause ]]; then
		printf '.\n'
	else
		sed -n 's/^\t_ "\(.*\)"$/\1/p' "$AIRGAP_DIR/go/$1/tools.go"
	fi
}

programs_key() {
	local module=$1 files=("$AIRGAP_DIR/go/$1"/*)
	printf 'programs-%s-%s' "$module" "$(hash_of "${files[@]}" \
		"$(programs_ldflags "$module")" "$(programs_tags "$module")" amd64)"
}

programs_dir() { printf '%s/%s' "$AIRGAP_CACHE" "$(programs_key "$1")"; }

programs_build() {
	local scratch=$1 module=$2 packages
	mapfile -t packages < <(programs_packages "$module")
	(
		cd "$AIRGAP_DIR/go/$module" || exit
		# What the user's own Go settings say about modules must not get in here.
		GOFLAGS='' GOWORK=off CGO_ENABLED=0 GOARCH=amd64 go build -trimpath -buildvcs=false \
			-tags "$(programs_tags "$module")" -ldflags "$(programs_ldflags "$module")" \
			-o "$scratch/" "${packages[@]}"
	)
	# A main package at a module's root is named after the module's last path element.
	[[ ! -f $scratch/server ]] || mv "$scratch/server" "$scratch/etcd"
}

programs() { cached "$(programs_dir "$1")" programs_build "$1"; }

# The go.mod files pin; versions.env names the same versions for the image's tags.
check_pins() {
	local module version
	while read -r module version; do
		grep -q "^require $module $version\$" "$AIRGAP_DIR"/go/*/go.mod ||
			die "hack/versions.env says $module $version, no go.mod under hack/airgap/go does" \
				"Change both together, then run 'go mod tidy' in that directory."
	done <<-PINS
		k8s.io/kubernetes $KUBERNETES_VERSION
		github.com/containerd/containerd/v2 $CONTAINERD_VERSION
		sigs.k8s.io/cri-tools $CRICTL_VERSION
		go.etcd.io/etcd/server/v3 $ETCD_VERSION
		github.com/coredns/coredns $COREDNS_VERSION
		github.com/rancher/local-path-provisioner $LOCALPATH_VERSION
	PINS
}

# ---------------------------------------------------------------- root file systems

# What each root file system holds on top of Debian's minimal base.
rootfs_packages() {
	case $1 in
	node)
		printf '%s,' systemd systemd-sysv conntrack iptables nftables iproute2 ethtool kmod \
			libseccomp2 pigz e2fsprogs jq procps nfs-common runc containernetworking-plugins
		;;
	net) printf '%s,' iptables nftables conntrack iproute2 jq ;;
	python) printf '%s,' python3 ;;
	esac | sed 's/,$//'
}

# Raised when rootfs_build does something else with the same packages.
rootfs_revision() { case $1 in python) echo 3 ;; *) echo 2 ;; esac; }

rootfs_key() {
	printf 'rootfs-%s-%s' "$1" "$(hash_of "$AIRGAP_SUITE" "$(rootfs_packages "$1")" \
		"$(rootfs_revision "$1")")"
}

rootfs_dir() { printf '%s/%s' "$AIRGAP_CACHE" "$(rootfs_key "$1")"; }

# The mirror is whatever this machine's own apt uses for Debian.
apt_mirror() {
	local mirror
	# shellcheck disable=SC2016  # apt's own placeholders
	mirror=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(SITE)' 'Created-By: Packages' |
		awk -v suite="$AIRGAP_SUITE" '$1 == "Debian" && ($2 == suite || !site) {site = $3}
			$1 == "Debian" && $2 == suite {exit} END {print site}')
	[[ -n $mirror ]] || die "apt on this machine has no Debian source" \
		"hack/airgap needs a Debian machine whose apt sources work: try apt-get update."
	printf '%s' "$mirror"
}

# Left as one tar: image builds stream it, and file owners and modes survive any cache location.
rootfs_build() {
	local scratch=$1 kind=$2
	local debs=$AIRGAP_CACHE/debs-$AIRGAP_SUITE
	mkdir -p "$debs"
	debootstrap --variant=minbase --cache-dir="$debs" --include="$(rootfs_packages "$kind")" \
		"$AIRGAP_SUITE" "$scratch/root" "$(apt_mirror)"
	rm -rf "$scratch"/root/var/cache/apt/* "$scratch"/root/var/lib/apt/lists/* \
		"$scratch"/root/usr/share/{doc,man,info,locale}/* "$scratch"/root/var/log/*
	case $kind in
	node) node_trim "$scratch/root" ;;
	python) python_trim "$scratch/root" ;;
	esac
	tar -C "$scratch/root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
		-cf "$scratch/root.tar" .
	rm -rf "$scratch/root"
}

# A node needs no login, no udev, no timers: only what kind starts. The same services that kind's
# own image removes.
node_trim() {
	local root=$1 lib=$1/lib/systemd/system
	rm -f "$lib"/sysinit.target.wants/systemd-tmpfiles-setup.service \
		"$lib"/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* \
		"$lib"/local-fs.target.wants/* "$lib"/sockets.target.wants/*udev* \
		"$lib"/sockets.target.wants/*initctl* "$lib"/basic.target.wants/*
	echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
	# It would register formats with the kernel, and that is the host's.
	ln -sf /dev/null "$root/etc/systemd/system/systemd-binfmt.service"
}

# Loaded into three nodes of every new cluster: what no Python program needs stays out.
python_trim() {
	local root=$1
	rm -rf "$root"/usr/lib/x86_64-linux-gnu/{gconv,perl-base} "$root"/var/cache/debconf/* \
		"$root"/usr/lib/python3.11/{pydoc_data,lib2to3} "$root"/usr/bin/{perl,perl5*} \
		"$root"/usr/share/{perl,perl5,bash-completion,debconf,bug,lintian} \
		"$root"/var/lib/dpkg/info/*.symbols
}

rootfs() { cached "$(rootfs_dir "$1")" rootfs_build "$1"; }

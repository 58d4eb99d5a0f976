#!/usr/bin/env bash
# One kind cluster: whose is it, is it well, make it, mend it, end it.
#
# Ours is a cluster whose node containers mount our state directory: that holds from the moment a
# container exists, also for one that was never finished, and can be read while it is stopped.

cluster_dir() { printf '%s/clusters/%s' "$STATE" "$1"; }

# "CONTAINER MOUNT,MOUNT…" of a cluster's containers, by kind's label or by the names that kind would
# want to use. NB: from the list, not from `docker inspect`, which does not know a container that is
# still being created (or whose creation was interrupted a moment ago).
cluster_list() {
	docker ps -a --no-trunc --format '{{.Names}} {{.Mounts}} {{.Label "io.x-k8s.kind.cluster"}}' |
		awk -v name="$1" '$NF == name || $1 == name "-control-plane" ||
			$1 ~ "^" name "-worker[0-9]*$" {print $1, $2}' | sort
}

cluster_containers() { cluster_list "$1" | cut -d' ' -f1; }

# cluster_owner NAME: none, ours or foreign.
cluster_owner() {
	cluster_list "$1" | awk -v mark="$(cluster_dir "$1")/owner" '
		index("," $2 ",", "," mark ",") {ours++}
		END {print NR == 0 ? "none" : ours == NR ? "ours" : "foreign"}'
}

# Names of all clusters whose containers or state directories are ours.
clusters_of_ours() {
	local name
	{
		docker ps -a --filter label=io.x-k8s.kind.cluster --format '{{.Label "io.x-k8s.kind.cluster"}}'
		ls "$STATE/clusters" 2>/dev/null || true
	} | sort -u | while read -r name; do
		[[ $(cluster_owner "$name") == foreign ]] || echo "$name"
	done
}

refuse_foreign() {
	[[ $(cluster_owner "$1") != foreign ]] ||
		die "there is a cluster or container called '$1' that this program did not make; it stays as it is" \
			"Choose another name: --name NAME. What was found: $(cluster_containers "$1" | tr '\n' ' ')"
}

# Progress of making it: "creating" until all of it stands, then "ready".
cluster_phase() { cat "$(cluster_dir "$1")/phase" 2>/dev/null || echo none; }
set_cluster_phase() { printf '%s\n' "$2" >"$(cluster_dir "$1")/phase"; }

# ---------------------------------------------------------------- make

# Every node runs systemd, containerd and a kubelet, each with inotify instances of its own, and
# they all count as the same user's. Linux allows 128, which two clusters use up; what then fails is
# containerd's CRI, in words that lead nowhere.
ensure_inotify() {
	local file=/proc/sys/fs/inotify/max_user_instances want=1024
	(($(cat $file) < want)) || return 0
	if (echo $want >$file) 2>/dev/null; then
		say "==> Kernel setting fs.inotify.max_user_instances ... raised to $want (until the next boot)"
	else
		warn "fs.inotify.max_user_instances is $(cat $file); a second cluster may fail to start." \
			"Raise it: sudo sysctl fs.inotify.max_user_instances=$want"
	fi
}

# cluster_config NAME: the template with its names filled in.
cluster_config() {
	local name=$1 extra=()
	[[ -f /sys/fs/cgroup/cgroup.controllers ]] || extra+=('failCgroupV1: false')
	! lacks_sys_resource || extra+=('oomScoreAdj: 0')
	sed -e "s|@NAME@|$name|" -e "s|@NODE_IMAGE@|$NODE_IMAGE|" \
		-e "s|@CLUSTER_STATE@|$(cluster_dir "$name")|" -e "s|@DOCKER_SOCKET@|$(docker_socket)|" \
		-e "s|@KUBELET_EXTRA@|$(printf '%s\\n    ' "${extra[@]:-}")|" "$HACK_DIR/kind/cluster.yaml.tmpl"
}

# Where the engine's socket lies on the engine's own machine: elsewhere only for a rootless engine.
docker_socket() {
	local host
	host=${DOCKER_HOST:-$(docker context inspect -f '{{.Endpoints.docker.Host}}' 2>/dev/null || true)}
	case $host in
	unix:///run/user/*) printf '%s' "${host#unix://}" ;;
	*) printf /var/run/docker.sock ;;
	esac
}

cluster_create() {
	local name=$1 kubeconfig=$2 dir
	dir=$(cluster_dir "$name")
	mkdir -p "$dir/shares"
	chmod 0777 "$dir/shares"
	[[ -s $dir/owner ]] || printf 'made by asetwin: %s\n' "$(date -u +%FT%TZ)" >"$dir/owner"
	set_cluster_phase "$name" creating
	cluster_config "$name" >"$dir/kind.yaml"
	kind create cluster --name "$name" --config "$dir/kind.yaml" --wait 120s --retain \
		${kubeconfig:+--kubeconfig "$kubeconfig"}
	cluster_wait_ready "$name" 120
	cluster_open_shares "$name"
	cluster_remember "$name"
	set_cluster_phase "$name" ready
}

# Any user of any pod may write to a share; see hack/kind/asetwin-shares.service. On the node that
# never fails: all nodes have the same directory.
cluster_open_shares() {
	local node=$1-control-plane unit
	for unit in asetwin-shares.service asetwin-shares.path; do
		docker exec -i "$node" cp /dev/stdin "/etc/systemd/system/$unit" <"$HACK_DIR/kind/$unit"
	done
	docker exec "$node" systemctl enable --quiet --now asetwin-shares.path
	# And for what was there before.
	docker exec "$node" systemctl start asetwin-shares.service
}

# The addresses of now: when all containers have stopped, they are started in this order, and each
# gets its address back.
cluster_remember() {
	local name=$1 containers
	mapfile -t containers < <(cluster_containers "$name")
	docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}} {{.Name}}' "${containers[@]}" |
		sort -t. -k4,4n | sed 's, /, ,' >"$(cluster_dir "$name")/addresses"
	hash_of "$(cluster_dir "$name")/kind.yaml" >"$(cluster_dir "$name")/made-from"
}

# ---------------------------------------------------------------- is it well?

# kubectl as the cluster's own administrator, without touching anyone's kubeconfig.
cluster_kubectl() {
	local name=$1
	shift
	docker exec -i "$name-control-plane" kubectl --kubeconfig=/etc/kubernetes/admin.conf "$@"
}

# cluster_unready NAME [SINCE]: prints the nodes that are missing or not Ready; fails when the API
# does not answer. NB: a Node whose kubelet has died still says Ready until somebody notices. So its
# Lease, renewed every second, must be younger than ten seconds and than SINCE (epoch seconds).
cluster_unready() {
	local name=$1 oldest=$(($(date +%s) - 10)) since=${2:-0} ready fresh node
	((oldest > since)) || oldest=$since
	ready=$(cluster_ask "$name" get nodes -o \
		jsonpath='{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}') ||
		return 1
	fresh=$(cluster_ask "$name" -n kube-node-lease get leases -o \
		jsonpath='{range .items[*]}{.metadata.name} {.spec.renewTime}{"\n"}{end}' |
		awk -v oldest="$(date -u -d "@$oldest" +%FT%T)" '$2 > oldest {printf "%s ", $1}') || return 1
	for node in $(cluster_containers "$name"); do
		[[ " $ready" == *" $node=True "* && " $fresh" == *" $node "* ]] || echo "$node"
	done
}

cluster_ask() {
	local name=$1
	shift
	timeout 10 docker exec "$name-control-plane" \
		kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=5s "$@"
}

cluster_running() {
	local containers states
	mapfile -t containers < <(cluster_containers "$1")
	((${#containers[@]} == 3)) || return 1
	states=$(docker inspect -f '{{.State.Running}}' "${containers[@]}" | sort -u)
	[[ $states == true ]]
}

cluster_is_well() {
	local unready
	[[ $(cluster_phase "$1") == ready ]] && cluster_running "$1" &&
		unready=$(cluster_unready "$1" 2>/dev/null) && [[ -z $unready ]]
}

# cluster_wait_ready NAME SECONDS [SINCE]
cluster_wait_ready() {
	local name=$1 deadline=$((SECONDS + $2)) since=${3:-0} unready
	while ((SECONDS < deadline)); do
		if unready=$(cluster_unready "$name" "$since" 2>/dev/null) && [[ -z $unready ]]; then return; fi
		sleep 0.5
	done
	echo "not Ready after $2 s: ${unready:-the API server does not answer}"
	return 1
}

# ---------------------------------------------------------------- mend

# Start what has stopped, restart what runs but stays silent; true when all nodes are Ready again.
cluster_mend() {
	local name=$1 node dir unready since patience=10
	dir=$(cluster_dir "$name")
	since=$(date +%s)
	[[ $(cluster_phase "$name") == ready && -d $dir/shares && -s $dir/addresses ]] || return 1
	# A node that just starts needs its time; one that ran all along has had it.
	cluster_running "$name" || patience=45
	while read -r _ node; do
		docker start "$node" || docker unpause "$node" || return 1
	done <"$dir/addresses"
	cluster_wait_ready "$name" "$patience" "$since" && return
	# NB: a node whose network was cut inside its container gets a clean one by a restart.
	unready=$(cluster_unready "$name" "$since" 2>/dev/null) || unready=$name-control-plane
	for node in $unready; do docker restart -t 5 "$node" || return 1; done
	cluster_wait_ready "$name" 90 "$since"
}

# Marks in the note which way it went; a cluster of ours that cannot be mended is made anew.
cluster_mend_or_recreate() {
	local name=$1 kubeconfig=$2
	if cluster_mend "$name"; then
		note "mended"
		return
	fi
	echo "mending did not help; making it anew"
	cluster_delete "$name"
	cluster_create "$name" "$kubeconfig"
	note "made anew"
}

# ---------------------------------------------------------------- end

cluster_delete() {
	local name=$1 kubeconfig=${2:-}
	if command -v kind >/dev/null; then
		kind delete cluster --name "$name" ${kubeconfig:+--kubeconfig "$kubeconfig"}
	fi
	cluster_containers "$name" | xargs -r docker rm -f -v
	remove_tree "$(cluster_dir "$name")"
}

# Pods write to the shares as whatever user they are; where this script is not root, a container is.
remove_tree() {
	rm -rf "$1" 2>/dev/null && return
	docker run --rm --entrypoint rm -v "$(dirname "$1"):/clusters" "$NODE_IMAGE" \
		-rf "/clusters/$(basename "$1")"
}

# ---------------------------------------------------------------- the whole of it

# ensure_cluster NAME KUBECONFIG: afterwards the cluster is up, ours and Ready.
ensure_cluster() {
	local name=$1 kubeconfig=$2
	[[ $name =~ ^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$ ]] ||
		die "'$name' cannot be a cluster's name" "Use lower-case letters, digits and dashes."
	lock "cluster-$name"
	refuse_foreign "$name"
	mkdir -p "$(cluster_dir "$name")"
	ensure_inotify
	if [[ $(cluster_owner "$name") == none ]]; then
		step "Cluster $name: create" cluster_create "$name" "$kubeconfig"
	elif cluster_is_well "$name"; then
		say "==> Cluster $name ... is up"
		warn_if_outdated "$name"
		cluster_open_shares "$name"
	else
		step "Cluster $name: repair" cluster_mend_or_recreate "$name" "$kubeconfig"
	fi
	kind export kubeconfig --name "$name" ${kubeconfig:+--kubeconfig "$kubeconfig"} 2>/dev/null ||
		die "the kubeconfig for '$name' could not be written" "Try: kind export kubeconfig --name $name"
}

warn_if_outdated() {
	local dir config
	dir=$(cluster_dir "$1")
	config=$(mktemp)
	mkdir "$config.d" && cluster_config "$1" >"$config.d/kind.yaml"
	[[ $(cat "$dir/made-from" 2>/dev/null) == "$(hash_of "$config.d/kind.yaml")" ]] ||
		warn "'$1' was made from an older node image or setting; ./hack/down --name $1 && ./hack/up --name $1 renews it"
	rm -rf "$config" "$config.d"
}

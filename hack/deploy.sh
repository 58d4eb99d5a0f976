#!/usr/bin/env bash
# The operator into a cluster: image, manifests, and the wait until it answers.

OPERATOR_NAMESPACE=asetwin-system
OPERATOR_DEPLOYMENT=asetwin-operator
POWER_NAMESPACE=asetwin-power
POWER_DEPLOYMENT=asetwin-power-agent
OVERLAYS=$ROOT_DIR/manifests/overlays

load_images() {
	local name=$1 nodes
	shift
	mapfile -t nodes < <(cluster_containers "$name")
	"$VENV/bin/python" -I "$HACK_DIR/load_image.py" --nodes "${nodes[@]}" --images "$@"
}

# The tree says ":dev"; what is applied names the exact image, so that the Deployment rolls when,
# and only when, the image has changed. Nothing in the tree is edited for that.
rendered_manifests() {
	kubectl kustomize --load-restrictor LoadRestrictionsNone "$OVERLAYS/$1" |
		sed "s|$OPERATOR_REPOSITORY:dev|$OPERATOR_IMAGE|g"
}

# Definitions before what uses them: the API server takes a moment to serve a new kind.
apply_manifests() {
	local name=$1 overlay=$2
	apply() {
		cluster_kubectl "$name" apply --server-side --force-conflicts --field-manager=asetwin-hack "$@"
	}
	kubectl kustomize "$ROOT_DIR/crds" | apply -f -
	cluster_kubectl "$name" wait --for=condition=Established --timeout=30s \
		crd -l app.kubernetes.io/name=asetwin
	rendered_manifests "$overlay" | apply -f -
	[[ $overlay == power ]] || remove_power_agent "$name"
}

# The agent leaves its Lease in order when it ends: from then on the operator simulates power.
remove_power_agent() {
	local name=$1
	cluster_kubectl "$name" delete namespace "$POWER_NAMESPACE" --ignore-not-found --timeout=60s
	cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" delete lease "$POWER_DEPLOYMENT" --ignore-not-found
	cluster_kubectl "$name" delete clusterrole,clusterrolebinding "$POWER_DEPLOYMENT" --ignore-not-found
}

await_power_agent() {
	local name=$1
	cluster_kubectl "$name" -n "$POWER_NAMESPACE" rollout status "deployment/$POWER_DEPLOYMENT" \
		--timeout=60s && return
	cluster_kubectl "$name" -n "$POWER_NAMESPACE" describe pods | sed -n '/^Conditions:/,$p' | tail -n 20 || true
	cluster_kubectl "$name" -n "$POWER_NAMESPACE" logs "deployment/$POWER_DEPLOYMENT" --tail=15 || true
	die "the power agent did not become ready; above is the end of its log" \
		"It needs the engine's socket at /var/run/docker.sock of the control-plane node; or use --simulated-power."
}

# Ready, or an explanation: a container that has crashed three times will not get better by waiting.
await_operator() {
	local name=$1 deadline=$((SECONDS + 120)) crashes
	while ((SECONDS < deadline)); do
		if cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" rollout status \
			"deployment/$OPERATOR_DEPLOYMENT" --timeout=5s; then
			return
		fi
		crashes=$(cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" get pods \
			-l app.kubernetes.io/component=operator \
			-o jsonpath='{.items[*].status.containerStatuses[0].restartCount}')
		[[ $crashes != "${crashes//[3-9]/}" ]] && break
	done
	explain_operator "$name"
	die "the operator did not become ready; above is the end of its log" \
		"See also: kubectl -n $OPERATOR_NAMESPACE describe pods"
}

# The pod's own words, shortest first: what the step shows is the end of its output.
explain_operator() {
	local name=$1
	cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" get pods -o wide || true
	cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" describe pods | sed -n '/^Conditions:/,$p' | tail -n 20 || true
	cluster_kubectl "$name" -n "$OPERATOR_NAMESPACE" logs "deployment/$OPERATOR_DEPLOYMENT" --tail=15 || true
}

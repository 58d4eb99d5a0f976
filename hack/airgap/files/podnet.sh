#!/bin/bash
# The pod network of a node image that was built without a registry: kind's own network image
# cannot be had there. Runs on every node, in the node's network: writes the CNI configuration for
# the node's podCIDR, keeps one route per peer, and masquerades what leaves the cluster.
#
# One `kubectl get --watch` follows the Nodes and keeps a table in a file; the loop applies that
# table every second without asking anyone, so that routes which vanish together with an interface
# (a network that was cut and mended) are back at once.
set -u

conf=/etc/cni/net.d/10-podnet.conflist
table=/run/podnet
account=/var/run/secrets/kubernetes.io/serviceaccount
# NB: separated by spaces. kubectl would pad tabs to columns.
columns='{.metadata.name} {.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}'

# Straight to the API server's node: the cluster's service address works only after kube-proxy.
# The token is read from its file again and again, as it is renewed there.
write_kubeconfig() {
	cat >/run/podnet.kubeconfig <<KUBECONFIG
{"apiVersion": "v1", "kind": "Config", "current-context": "node",
 "clusters": [{"name": "node", "cluster": {"server": "https://$CONTROL_PLANE_ENDPOINT",
   "certificate-authority": "$account/ca.crt"}}],
 "users": [{"name": "node", "user": {"tokenFile": "$account/token"}}],
 "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}]}
KUBECONFIG
}

follow_nodes() {
	local name cidr ip
	while true; do
		kubectl --kubeconfig=/run/podnet.kubeconfig --request-timeout=300s \
			get nodes --watch -o jsonpath="$columns" |
			while read -r name cidr ip; do
				[ -n "$cidr" ] && [ -n "$ip" ] || continue
				printf '%s %s\n' "$cidr" "$ip" >"$table/.new" && mv "$table/.new" "$table/$name"
			done
		sleep 0.5
	done
}

write_conf() {
	local cidr=$1 mtu
	mtu=$(cat /sys/class/net/eth0/mtu)
	cat >/etc/cni/net.d/.podnet <<CONFLIST
{"cniVersion": "0.3.1", "name": "podnet", "plugins": [
 {"type": "ptp", "ipMasq": false, "mtu": $mtu,
  "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state",
           "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "$cidr"}]]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
CONFLIST
	# Renamed into place: the runtime must never read half of it.
	mv /etc/cni/net.d/.podnet $conf
}

masquerade() {
	iptables -w -t nat -N PODNET-MASQ 2>/dev/null
	iptables -w -t nat -C POSTROUTING -j PODNET-MASQ 2>/dev/null ||
		iptables -w -t nat -A POSTROUTING -j PODNET-MASQ
	iptables -w -t nat -F PODNET-MASQ
	iptables -w -t nat -A PODNET-MASQ -d "$POD_SUBNET" -j RETURN
	iptables -w -t nat -A PODNET-MASQ -s "$POD_SUBNET" -j MASQUERADE
}

# Asking for the routes costs one process; `ip route replace` runs only for what has changed.
apply_table() {
	local routes name cidr ip file
	routes=$(ip -4 route show)
	for file in "$table"/*; do
		[ -f "$file" ] || continue
		name=${file##*/}
		read -r cidr ip <"$file"
		if [ "$name" = "$NODE_NAME" ]; then
			grep -qsF "\"$cidr\"" $conf || write_conf "$cidr"
		elif [[ $routes != *"$cidr via $ip "* ]]; then
			ip route replace "$cidr" via "$ip"
		fi
	done
}

trap 'exit 0' TERM INT
mkdir -p $table
write_kubeconfig
masquerade
follow_nodes &
while true; do
	apply_table
	sleep 1 &
	wait $!
done

#!/usr/bin/env bash
# A Docker engine on a Debian machine that has none: install it, start it (with or without an init
# system), and meet one that was killed hard. Only an engine that was started here is ever stopped.

ENGINE_STATE=$STATE/engine
ENGINE_RECORD=$ENGINE_STATE/pid # "PID START-TICK" of the dockerd that was started here
ENGINE_LOG=$ENGINE_STATE/dockerd.log
ENGINE_PACKAGES=(docker.io iptables debootstrap busybox-static)

engine_answers() { timeout "${1:-10}" docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# engine_is_ours: does the dockerd that was started here still run?
engine_is_ours() {
	local pid begun
	[[ -f $ENGINE_RECORD ]] && read -r pid begun <"$ENGINE_RECORD" && is_same_process "$pid" "$begun"
}

engine_install() {
	local package missing=()
	for package in "${ENGINE_PACKAGES[@]}"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
			missing+=("$package")
	done
	if ((${#missing[@]} == 0)); then
		note cached
		return
	fi
	[[ $EUID == 0 ]] || die "no Docker engine answers, and installing one needs root" \
		"Start your Docker engine, or run this as root on Debian."
	command -v apt-get >/dev/null || die "no Docker engine answers, and this is not a Debian machine" \
		"Install and start a Docker engine, then run this again."
	need_space /var/lib 1 "the Docker engine"
	# Third-party sources that fail to update must not stand in the way of Debian's own.
	apt-get update || true
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" ||
		die "apt could not install ${missing[*]}" "Try: apt-get install ${missing[*]}"
	note "installed ${missing[*]}"
}

# Bit 24 of the bounding set. Without it `--privileged` containers do not start under plain runc.
lacks_sys_resource() {
	local bounding
	bounding=$(awk '$1 == "CapBnd:" {print $2}' /proc/self/status)
	(((16#$bounding >> 24 & 1) == 0))
}

# What a killed dockerd leaves: pid files that name nobody, or by now a stranger. A containerd that
# survived it is left running: the next dockerd finds and takes it.
engine_sweep() {
	local file pid
	for file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
		[[ -f $file ]] || continue
		pid=$(cat "$file")
		case $(cat "/proc/${pid:-0}/comm" 2>/dev/null) in
		dockerd | containerd) ;;
		*) rm -f "$file" ;;
		esac
	done
	[[ -f /var/run/docker.pid ]] || rm -f /var/run/docker.sock
}

engine_start() {
	if engine_answers; then
		note "already runs"
		return
	fi
	if [[ -d /run/systemd/system ]] && systemctl list-unit-files docker.service >/dev/null 2>&1; then
		systemctl start docker && engine_wait 60 && note "by systemd" && return
		die "systemd could not start docker" "See: journalctl -u docker"
	fi
	[[ $EUID == 0 ]] || die "no Docker engine answers" "Start your Docker engine, or run this as root."
	engine_launch
	engine_wait 90 || {
		tail -n 15 "$ENGINE_LOG"
		die "dockerd did not come up" "Its log: $ENGINE_LOG"
	}
	note "dockerd $(docker version --format '{{.Server.Version}}')"
}

engine_launch() {
	local options=() pid daemon
	need_command dockerd "Install Debian's docker.io."
	mkdir -p "$ENGINE_STATE"
	if engine_is_ours; then
		# It runs but does not answer: give it a moment, it may be starting.
		engine_wait 20 && return
		engine_stop
	fi
	engine_sweep
	if lacks_sys_resource; then
		# A copy: the engine outlives this checkout, and calls it for every container.
		cp "$AIRGAP_DIR/files/runc-without-sys-resource" "$ENGINE_STATE/"
		options+=(--add-runtime "asetwin=$ENGINE_STATE/runc-without-sys-resource"
			--default-runtime asetwin)
	fi
	daemon=$(command -v dockerd)
	[[ ! -f $ENGINE_LOG ]] || mv "$ENGINE_LOG" "$ENGINE_LOG.previous"
	(
		# The daemon outlives this script: it must hold neither its locks nor its terminal.
		close_locks
		exec setsid "$daemon" "${options[@]}" </dev/null >"$ENGINE_LOG" 2>&1
	) &
	pid=$!
	sleep 0.3
	printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$ENGINE_RECORD.new"
	mv "$ENGINE_RECORD.new" "$ENGINE_RECORD"
	disown "$pid"
}

# engine_wait SECONDS: fails early when the dockerd that was started here has died.
engine_wait() {
	local deadline=$((SECONDS + $1))
	while ((SECONDS < deadline)); do
		engine_answers 5 && return
		[[ ! -f $ENGINE_RECORD ]] || engine_is_ours || return 1
		sleep 0.3
	done
	return 1
}

# Ends the dockerd that was started here, and nothing else. Containers stop with it.
engine_stop() {
	local pid begun deadline=$((SECONDS + 60))
	if ! engine_is_ours; then
		rm -f "$ENGINE_RECORD"
		note "none of ours runs"
		return
	fi
	read -r pid begun <"$ENGINE_RECORD"
	kill -TERM "$pid"
	while is_same_process "$pid" "$begun"; do
		((SECONDS < deadline)) || die "dockerd (pid $pid) does not end" "Look at $ENGINE_LOG."
		sleep 0.3
	done
	rm -f "$ENGINE_RECORD"
}

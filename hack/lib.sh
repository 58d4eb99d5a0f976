#!/usr/bin/env bash
# Shared by every script under hack/: paths, steps with their time, errors that say what to do,
# locks, and builds that appear under their final name only when they are complete.
#
# Source it, do not run it. Stdout belongs to a script's result; everything for people goes to
# stderr.

set -Eeuo pipefail
umask 022

HACK_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # read by those who source this file
ROOT_DIR=$(dirname "$HACK_DIR")
# shellcheck disable=SC2034
AIRGAP_DIR=$HACK_DIR/airgap
# shellcheck source=hack/versions.env
source "$HACK_DIR/versions.env"

# Both live outside the work tree: a fresh clone finds what an earlier one has built.
CACHE=${ASETWIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/asetwin}
STATE=${ASETWIN_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/asetwin}
mkdir -p "$CACHE" "$STATE/logs"
find "$STATE/logs" -type f -mtime +7 -delete

# ---------------------------------------------------------------- words for people

say() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die WHAT-FAILED [WHAT-TO-DO]: the last words of a script.
die() {
	printf '\nerror: %s\n' "$1" >&2
	[[ -z ${2:-} ]] || printf '  %s\n' "$2" >&2
	exit 1
}

# need_value OPTION [VALUE…]: the script ends with "bad usage" when an option lacks its value.
need_value() {
	[[ -z ${2:-} ]] || return 0
	printf 'error: %s needs a value (see --help)\n' "$1" >&2
	exit 2
}

# A command that fails without a word of its own must not end a script in silence. Functions that
# run inside `step` report to the step's log; the step then shows the log's end.
on_unexpected_error() {
	local status=$1 line=$2 command=$3
	# shellcheck disable=SC2016  # backquotes for people
	printf 'error: line %s: `%s` ended with status %s\n' "$line" "$command" "$status" >&2
}
trap 'on_unexpected_error $? "${BASH_SOURCE[0]##*/}:$LINENO" "$BASH_COMMAND"' ERR

now_ms() { local t=$EPOCHREALTIME; printf '%s' "${t/./}" | cut -c1-13; }

# seconds_since MS: "12.3"
seconds_since() {
	local ms=$(($(now_ms) - $1))
	printf '%d.%d' $((ms / 1000)) $(((ms % 1000) / 100))
}

# on_exit COMMAND: run when the script ends, however it ends, last one first.
on_exit() { CLEANUPS=("$1" "${CLEANUPS[@]}"); }
CLEANUPS=()
run_cleanups() {
	local cleanup
	for cleanup in "${CLEANUPS[@]}"; do eval "$cleanup" || true; done
}
trap run_cleanups EXIT

# ---------------------------------------------------------------- steps

# note TEXT, called by a step's function: shown behind the step ("cached", an image's name).
note() { [[ -z ${STEP_NOTE:-} ]] || printf '%s' "$*" >"$STEP_NOTE"; }

# step TEXT COMMAND…: says what is done, does it with the output in a log, says how long it took.
# On failure the end of the log is shown and the script ends: call it as a plain statement, never
# in a condition (bash would then ignore errors inside COMMAND).
step() {
	local text=$1 begin status log
	shift
	begin=$(now_ms)
	log=$STATE/logs/$(slug "$text")-$$.log
	printf '==> %s ... ' "$text" >&2
	STEP_NOTE=$(mktemp)
	export STEP_NOTE

	# A subshell, so that `set -e` holds inside whatever the caller's context is, and in the
	# foreground, so that ctrl-c reaches what is being run.
	trap - ERR
	set +e
	(
		set -Eeuo pipefail
		trap 'on_unexpected_error $? "${BASH_SOURCE[0]##*/}:$LINENO" "$BASH_COMMAND"' ERR
		"$@"
	) >"$log" 2>&1
	status=$?
	set -e
	trap 'on_unexpected_error $? "${BASH_SOURCE[0]##*/}:$LINENO" "$BASH_COMMAND"' ERR

	local noted
	noted=$(cat "$STEP_NOTE")
	rm -f "$STEP_NOTE"
	unset STEP_NOTE
	if ((status != 0)); then
		printf 'FAILED after %s s\n' "$(seconds_since "$begin")" >&2
		tail -n 30 "$log" | sed 's/^/    | /' >&2
		say "    full log: $log"
		exit 1
	fi
	rm -f "$log"
	printf '%s%s s\n' "${noted:+$noted, }" "$(seconds_since "$begin")" >&2
}

slug() { tr -cs 'a-zA-Z0-9' '-' <<<"$1" | cut -c1-40 | sed 's/-*$//'; }

# ---------------------------------------------------------------- locks, hashes, caches

# lock NAME: held until the script ends; released by the kernel however it ends. Daemons that
# outlive the script are started with the descriptor closed.
lock() {
	local name=$1 fd file
	[[ -z ${LOCKS[$name]:-} ]] || return 0
	file=$STATE/locks/$name
	mkdir -p "$STATE/locks"
	exec {fd}>>"$file"
	if ! flock --nonblock "$fd"; then
		say "    (waiting for another run that holds the lock $file)"
		flock --timeout "${ASETWIN_LOCK_TIMEOUT:-3600}" "$fd" ||
			die "another run still holds $file" "End it (see: fuser $file), then run this again."
	fi
	LOCKS[$name]=$fd
}
declare -A LOCKS=()

# unlock NAME: before the end of the script, so that other clones need not wait for its remainder.
unlock() {
	local fd=${LOCKS[$1]:-}
	[[ -n $fd ]] || return 0
	exec {fd}>&-
	unset "LOCKS[$1]"
}

# close_locks: called in the child that becomes a daemon.
close_locks() {
	local fd
	for fd in "${LOCKS[@]}"; do exec {fd}>&-; done
}

# hash_of WORD…: 12 hex digits over the words; a word that is a file counts with its content.
hash_of() {
	local word
	for word in "$@"; do
		if [[ -f $word ]]; then
			printf '%s\n' "${word##*/}" && sha256sum <"$word"
		else
			printf '%s\n' "$word"
		fi
	done | sha256sum | cut -c1-12
}

# cached DIR FUNCTION ARG…: runs FUNCTION with a temporary directory and ARG…, and renames that
# directory to DIR when it has succeeded. Callers hold a lock, so a temporary directory that is there
# already was left by a build that was interrupted, and is swept away.
cached() {
	local dir=$1 builder=$2 scratch
	shift 2
	if [[ -d $dir ]]; then
		note cached
		return
	fi
	mkdir -p "$(dirname "$dir")"
	scratch=$dir.part
	sweep "$scratch"
	mkdir "$scratch"
	"$builder" "$scratch" "$@"
	mv -T "$scratch" "$dir"
}

# NB: a debootstrap that was killed leaves /proc and /sys mounted below its target; they go first,
# and nothing on another file system is ever touched.
sweep() {
	local left=$1 mounted
	[[ -d $left ]] || return 0
	while read -r mounted; do
		umount -l "$mounted"
	done < <(awk -v top="$left/" 'index($2, top) == 1 {print $2}' /proc/mounts | sort -r)
	rm -rf --one-file-system "$left"
}

# need_space DIR GIB WHAT: a full disk is told before the work, not by a half-written file.
need_space() {
	local dir=$1 gib=$2 what=$3 free
	mkdir -p "$dir" 2>/dev/null || true
	while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
	free=$(df --output=avail -B1M "$dir" | tail -n 1)
	((free >= gib * 1024)) ||
		die "$what needs $gib GiB in $dir, $((free / 1024)) GiB are free" \
			"Free some space, or point ASETWIN_CACHE (caches) or Docker's data root elsewhere."
}

# ---------------------------------------------------------------- processes we started

# start_time PID: the kernel's start tick. A pid alone can be taken over by a stranger.
start_time() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	stat=${stat##*) } # the command's name may hold spaces and brackets
	awk '{print $20}' <<<"$stat"
}

# is_same_process PID START
is_same_process() { [[ -n ${1:-} && -n ${2:-} && $(start_time "$1" || true) == "$2" ]]; }

# kill_tree PID: a child of this script and all that it has started.
kill_tree() {
	local child
	for child in $(pgrep -P "$1" || true); do kill_tree "$child"; done
	kill "$1" 2>/dev/null || true
}

need_command() {
	command -v "$1" >/dev/null || die "$1 is not installed" "${2:-Install $1 and run this again.}"
}

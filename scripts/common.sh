# shellcheck shell=bash
# What the other scripts share; sourced, not run.
#
# Everything works on the stack of dev/docker-compose.yml or, with NATIVE=1, on that of dev/native/stack.py.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

native() { [ "${NATIVE:-}" = 1 ]; }

stack() { "$root/dev/native/stack.py" "$@"; }

compose() {
    docker compose version >/dev/null 2>&1 || {
        echo "$(basename "$0"): needs Docker with the compose plugin; without Docker: NATIVE=1 $0" >&2
        exit 1
    }
    docker compose --file "$root/dev/docker-compose.yml" "$@"
}

# gravity ARG...: against the stack's store.
gravity() {
    if native; then stack gravity -- "$@"; else compose exec -T gravity gravity "$@"; fi
}

# setting NAME: from the environment, or from dev/.env.
setting() {
    local value="${!1:-}"
    [ -n "$value" ] || value="$(sed -n "s/^$1=//p" "$root/dev/.env")"
    printf '%s\n' "$value"
}

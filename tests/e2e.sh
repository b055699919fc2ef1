#!/usr/bin/env bash
# End-to-end tests as a user would do them: real processes, the kago command and curl, against the leader and the followers in turn.
#
#   tests/e2e.sh [--scheduler NAME] [--multi-node] [--runtime docker|process|auto]
#
# With Docker where an engine answers and the images are there or can be pulled (KAGO_E2E_IMAGE, KAGO_E2E_IMAGE2), else with plain processes.
set -uo pipefail
cd "$(dirname "$0")/.."

scheduler=first-fit
agents=1
runtime=auto
while (($#)); do
    case $1 in
        --scheduler) scheduler=${2:?--scheduler needs a name}; shift ;;
        --multi-node) agents=2 ;;
        --runtime) runtime=${2:?--runtime needs a name}; shift ;;
        *) echo "usage: $0 [--scheduler NAME] [--multi-node] [--runtime docker|process|auto]" >&2; exit 2 ;;
    esac
    shift
done

python=.venv/bin/python
[[ -x $python ]] || { echo "no .venv here: run make venv first" >&2; exit 2; }
command -v curl >/dev/null || { echo "no curl here: these tests ask as a user would; install it, on Debian: apt-get install curl" >&2; exit 2; }
kago() { "$python" -m kago.cli.main "$@"; }
image=${KAGO_E2E_IMAGE:-nginx:alpine}
image2=${KAGO_E2E_IMAGE2:-httpd:alpine}

have_image() { docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull -q "$1" >/dev/null 2>&1; }
if [[ $runtime == auto ]]; then
    if command -v docker >/dev/null && timeout 5 docker info >/dev/null 2>&1 && have_image "$image" && have_image "$image2"; then
        runtime=docker
    else
        runtime=process
        echo "no Docker engine, or no images: using the process runtime"
    fi
fi

work=$(mktemp -d)
prefix="e2esh-$$"
passed=0
failed=0
declare -a pids=()

pod_processes() { # pids of pods of our nodes
    grep -lz "^KAGO_NODE_NAME=$prefix-" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}
containers() {
    if [[ $runtime == docker ]]; then
        for n in $(seq "$agents"); do docker ps -aq --filter "label=kago.node=$prefix-$n"; done
    else
        pod_processes
    fi
}
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    [[ $runtime == docker ]] && containers | xargs -r docker rm -f >/dev/null
    for pid in $(pod_processes); do kill -9 "$pid" 2>/dev/null; done
    if ((failed)); then echo "logs are in $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

pass() { passed=$((passed + 1)); echo "  ok    $1"; }
fail() { failed=$((failed + 1)); echo "  FAIL  $1${2:+: $2}"; }
check() { # check NAME COMMAND…: the command succeeds
    local name=$1 output; shift
    if output=$("$@" 2>&1); then pass "$name"; else fail "$name" "$output"; fi
}
equal() { # equal NAME GOT WANTED
    if [[ $2 == "$3" ]]; then pass "$1"; else fail "$1" "got '$2', wanted '$3'"; fi
}
until_true() { # until_true SECONDS COMMAND…
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}
json() { # json EXPRESSION: prints a Python expression over the document d on stdin
    "$python" -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}
fetch() { curl -s --max-time 10 "$@"; }
status_of() { fetch -o /dev/null -w '%{http_code}' "$@"; }
put() { # put NAME BODY: the status
    status_of -X PUT "$url/deployments/$1" -H 'Content-Type: application/json' -d "$2"
}
ready_is() { [[ $(fetch "$url/deployments/$1" | json "(d['ready_replicas'], d['updated_replicas'], d['total_replicas']) == ($2,) * 3") == True ]]; }
# Both: a pod whose container is gone but whose agent has not said so yet still holds its place on the node.
no_containers() { [[ -z $(containers) && $(fetch "$url/pods") == "[]" ]]; }

# -- the cluster -----------------------------------------------------------------------------------------------------

read -ra ports < <("$python" -c '
import socket
held = [socket.socket() for _ in range(8)]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')
peers="127.0.0.1:${ports[3]},127.0.0.1:${ports[4]},127.0.0.1:${ports[5]}"
urls=()
for n in 0 1 2; do
    urls+=("http://127.0.0.1:${ports[n]}")
    "$python" -m kago.cli.main serve --host 127.0.0.1 --port "${ports[n]}" --peers "$peers" --address "127.0.0.1:${ports[n + 3]}" --scheduler "$scheduler" \
        --data-dir "$work/server-$n" </dev/null >"$work/server-$n.log" 2>&1 &
    pids+=($!)
done
all=$(IFS=,; echo "${urls[*]}")
for n in $(seq "$agents"); do
    "$python" -m kago.cli.main agent --name "$prefix-$n" --master "$all" --port "${ports[n + 5]}" --address 127.0.0.1 --cpu 2000 --memory 2048 --runtime "$runtime" \
        --data-dir "$work/agent-$n" </dev/null >"$work/agent-$n.log" 2>&1 &
    pids+=($!)
done
export KAGO_SERVER=$all
url=${urls[0]}

echo "scheduler $scheduler, $agents node(s), runtime $runtime"
is_ready() { [[ $(status_of "$1/ready") == 200 ]]; }
nodes_ready() { [[ $(fetch "$url/nodes" | json "sum(n['status'] == 'ready' for n in d)") == "$agents" ]]; }
check "three servers find a leader and $agents node(s) are ready" until_true 30 nodes_ready
for n in 0 1 2; do
    equal "health of server $((n + 1))" "$(fetch "${urls[n]}/health" | json "d['status']")" healthy
    check "server $((n + 1)) is ready" until_true 20 is_ready "${urls[n]}"
done
leader=$(fetch "$url/cluster" | json "next(m['api'] for m in d['members'] if m['role'] == 'leader')")
followers=$(fetch "$url/cluster" | json "' '.join(m['api'] for m in d['members'] if m['role'] == 'follower')")
equal "two servers follow the leader" "$(wc -w <<<"$followers")" 2

# -- each example, through the leader and each follower --------------------------------------------------------------

if [[ $runtime == docker ]]; then
    examples=(nginx-deployment.yml multi-deployment.yml)
    "$python" -c 'import _jsonnet' 2>/dev/null && examples+=(nginx-deployment.jsonnet multi-deployment.jsonnet)
else
    examples=(process-deployment.yml)
fi

example() { # example FILE VIA
    local file=examples/$1 via=$2 names name updated least
    names=$(kago apply -f "$file" --dry-run -o name | cut -d/ -f2)
    check "$via: apply $1" kago apply -f "$file" --wait --timeout 90s
    equal "$via: apply $1 again" "$(kago apply -f "$file" | grep -cv unchanged)" 0
    for name in $names; do
        equal "$via: scale $name by PUT" "$(put "$name" '{"replicas": 4}')" 200
        check "$via: $name has 4 ready pods" until_true 60 ready_is "$name" 4
        if [[ $runtime == docker ]]; then
            updated=$(fetch "$url/deployments/$name" | json "'$image2' if d['image'] == '$image' else '$image'")
            equal "$via: update $name to $updated" "$(put "$name" "{\"image\": \"$updated\"}")" 200
        else
            equal "$via: update $name" "$(put "$name" '{"env": {"FIRST_PORT": "21000"}}')" 200
        fi
        least=4
        local end=$((SECONDS + 90)) now
        while ((SECONDS < end)); do
            now=$(fetch "$url/deployments/$name?stale=true" | json "d['ready_replicas']")
            ((now < least)) && least=$now
            ready_is "$name" 4 && break
        done
        equal "$via: never fewer than 4 pods of $name were ready during the update" "$least" 4
        check "$via: the update of $name ended" ready_is "$name" 4
        check "$via: scale $name by command" kago scale "$name" 1 --wait --timeout 60s
        check "$via: get shows $name" grep -q "^$name  *1/1" <(kago get deployments)
    done
    check "$via: delete what $1 describes" kago delete -f "$file"
    for name in $names; do equal "$via: $name is gone" "$(status_of "$url/deployments/$name")" 404; done
    check "$via: nothing of $1 is left over" until_true 40 no_containers
}
turn=0
for file in "${examples[@]}"; do # each through the leader and, in turn, one of the followers
    turn=$((turn + 1))
    for via in leader follower; do
        url=$leader
        [[ $via == follower ]] && url=$(cut -d' ' -f$((turn % 2 + 1)) <<<"$followers")
        export KAGO_SERVER=$url
        example "$file" "$via"
    done
done
url=$leader
export KAGO_SERVER=$all

# -- curl, as the README shows it ------------------------------------------------------------------------------------

if [[ $runtime == docker ]]; then
    body="{\"name\": \"curl\", \"image\": \"$image\", \"replicas\": 2, \"resources\": {\"cpu_millis\": 100, \"memory_mb\": 128}}"
else
    body='{"name": "curl", "runtime": "process", "command": ["/bin/sleep", "99999"], "replicas": 2, "resources": {"cpu_millis": 100, "memory_mb": 128}}'
fi
post() { status_of -X POST "$url/deployments" -H 'Content-Type: application/json' -d "$1"; }
equal "POST creates" "$(post "$body")" 201
equal "POST of a name that exists" "$(post "$body")" 409
equal "POST of rubbish" "$(post '{"name": ')" 400
equal "POST of a negative number" "$(post "${body/\"replicas\": 2/\"replicas\": -2}")" 422
check "its pods run" until_true 60 ready_is curl 2
equal "PUT of a whole spec" "$(put curl "${body/\"replicas\": 2/\"replicas\": 3}")" 200
check "three pods run" until_true 60 ready_is curl 3
equal "GET /pods lists them" "$(fetch "$url/pods" | json "sum(p['deployment_name'] == 'curl' for p in d)")" 3
equal "DELETE" "$(status_of -X DELETE "$url/deployments/curl")" 200
equal "GET after that" "$(status_of "$url/deployments/curl")" 404
check "nothing is left over" until_true 40 no_containers

# -- the strategy ----------------------------------------------------------------------------------------------------

place() { # place NAME REPLICAS CPU: how many of its pods stand on each node, by node name
    kago apply -f - --wait --timeout 90s >/dev/null <<YAML || return 1
kind: Deployment
spec:
  name: $1
  $(if [[ $runtime == docker ]]; then echo "image: $image"; else echo 'command: [/bin/sleep, "99999"]'; fi)
  runtime: $runtime
  replicas: $2
  resources: {cpu: $3, memory: 64Mi}
YAML
    fetch "$url/pods?deployment_name=$1" | json "' '.join(str(sum(p['node_name'] == f'$prefix-{n}' for p in d)) for n in range(1, $agents + 1))"
}
case $agents-$scheduler in
    1-*) wanted=4 ;;
    2-least-allocated | 2-spread | 2-balanced | 2-balance) wanted="2 2" ;;
    *) wanted="4 0" ;; # first by name, and the fullest stays the fullest
esac
equal "$scheduler places four pods" "$(place strategy 4 100m)" "$wanted"
check "delete them" kago delete strategy
check "nothing is left over" until_true 40 no_containers

# -- errors ----------------------------------------------------------------------------------------------------------

code() { kago "$@" >/dev/null 2>&1; echo $?; }
equal "get of what is not there" "$(code get deployment nosuch)" 4
equal "delete of what is not there" "$(code delete nosuch)" 4
equal "scale of what is not there" "$(code scale nosuch 3)" 4
equal "a wrong verb" "$(code frobnicate)" 2
equal "an unknown field" "$(printf 'kind: Deployment\nspec: {name: a, image: b, replcas: 1}\n' | kago apply -f - 2>&1 | grep -c "did you mean 'replicas'")" 1
equal "no server" "$(kago get pods -s http://127.0.0.1:1 >/dev/null 2>&1; echo $?)" 6
printf 'kind: Deployment\nspec: {name: huge, image: a, runtime: process, command: [x], replicas: 1, resources: {cpu: 900000m}}\n' | kago apply -f - >/dev/null
pending() { [[ $(fetch "$url/pods?deployment_name=huge" | json "d[0]['status'], d[0]['reason']") == "('pending', 'Unschedulable')" ]]; }
check "what fits nowhere stays pending with its reason" until_true 20 pending
check "delete it" kago delete huge

echo
echo "$passed passed, $failed failed"
((failed == 0))

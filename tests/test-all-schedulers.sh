#!/usr/bin/env bash
# tests/e2e.sh for every scheduling strategy, on one node and on two. Arguments are passed on.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
for scheduler in first-fit best-fit least-allocated balanced; do
    for nodes in "" --multi-node; do
        echo "== $scheduler $nodes"
        output=$(tests/e2e.sh --scheduler "$scheduler" $nodes "$@" 2>&1)
        code=$?
        last=$(tail -n 20 <<<"$output" | grep -E '^[0-9]+ passed, [0-9]+ failed$')
        grep -E '^  FAIL|^logs are' <<<"$output"
        echo "${last:-it ended with $code and without a result}"
        if [[ $last ]]; then
            passed=$((passed + $(cut -d' ' -f1 <<<"$last")))
            failed=$((failed + $(cut -d' ' -f3 <<<"$last")))
        else
            failed=$((failed + 1))
            tail -n 20 <<<"$output"
        fi
    done
done
echo
echo "$passed passed, $failed failed"
((failed == 0))

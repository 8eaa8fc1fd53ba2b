# stack.awk max=BYTES known=FILE <unit.ci      (gcc -fcallgraph-info=su)
# Prints the frames above 1 KB and the deepest chain of calls below each azo_ function; fails if a frame is larger than
# max and `known` does not explain it. Frames are gcc's; what libc, mbedTLS and hooks use comes on top. The pump calls
# a job through a pointer, and a job its operations: such a call ("=>") goes to the deepest of all functions that
# nobody calls directly, so the sums are upper bounds. What others call by pointer are hooks. A function that calls
# itself counts AZO_MAX_JSON_DEPTH + 1 times.

BEGIN {
    while ((getline line <known) > 0) {
        if (split(line, field, / *\| */) >= 4 && field[1] == "stack") { explained[field[3]] = 1 }
    }
    through = "^(azo_step|azoi_pump_run|azoi_end|azoi_job_[a-z_]*)$"
}

function name(text) {
    sub(/^.*:/, "", text)
    return text
}

/^node: / {
    split($0, quoted, "\"")
    n = name(quoted[2])
    if (match(quoted[4], /[0-9]+ bytes/)) {
        bytes = substr(quoted[4], RSTART) + 0
        frame[n] = bytes
        order[++count] = n
    }
}

/^edge: / {
    split($0, quoted, "\"")
    from = name(quoted[2])
    to = name(quoted[4])
    if (from == to) { itself[from] = 1; next }
    if (!((from, to) in edge)) { edge[from, to] = 1; calls[from] = calls[from] " " to }
    if (to != "__indirect_call") { called[to] = 1 }
}

# The deepest way down from f, with so many calls through pointers left; how[] keeps the next step of it.
function depth(f, hops,    key, list, n, i, d, best, next_name, next_step, own) {
    key = f SUBSEP hops
    if (key in memo) { return memo[key] }
    if (f in busy) { return 0 }
    busy[f] = 1
    best = 0
    n = split(calls[f], list, " ")
    for (i = 1; i <= n; i++) {
        if (list[i] == "__indirect_call") {
            d = hops > 0 && f ~ through ? indirect(hops - 1) : 0
            next_name = chosen[hops - 1]
        } else {
            d = list[i] in frame ? depth(list[i], hops) : 0
            next_name = list[i]
        }
        if (d > best) { best = d; next_step = next_name (list[i] == "__indirect_call" ? "*" : "") }
    }
    delete busy[f]
    own = frame[f] * (f in itself ? 65 : 1)
    how[key] = next_step
    memo[key] = own + best
    return memo[key]
}

function indirect(hops,    i, d, best) {
    if (hops in widest) { return widest[hops] }
    best = 0
    for (i = 1; i <= count; i++) {
        if (!(order[i] in called) && order[i] !~ /^azo_/) {
            d = depth(order[i], hops)
            if (d > best) { best = d; chosen[hops] = order[i] }
        }
    }
    widest[hops] = best
    return best
}

function chain(f, hops,    text, step) {
    text = f
    while ((f, hops) in how && how[f, hops] != "") {
        step = how[f, hops]
        if (step ~ /\*$/) { hops--; sub(/\*$/, "", step); text = text " =>" }
        text = text " " step "(" frame[step] ")"
        f = step
    }
    return text
}

END {
    for (i = 1; i <= count; i++) { if (frame[order[i]] > 1000) { print "frame " frame[order[i]] " " order[i] } }
    indirect(0)
    indirect(1)
    for (i = 1; i <= count; i++) {
        if (order[i] ~ /^azo_[a-z_]*$/) { print "chain " depth(order[i], 2) " " chain(order[i], 2) }
        if (frame[order[i]] > max && !(order[i] in explained)) { large = large " " order[i] "(" frame[order[i]] ")" }
    }
    if (large != "") { print "above " max ":" large; exit 1 }
}

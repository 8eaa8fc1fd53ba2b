# report.awk known=FILE tool=NAME <diagnostics
# Prints the diagnostics of gcc, clang, clang-tidy and cppcheck as "file:line function check: message", each once,
# without those that `known` explains by tool, check and function; lines move, functions stay. Fails if any is left.

BEGIN {
    while ((getline line <known) > 0) {
        if (split(line, field, / *\| */) >= 4 && field[1] == tool) { explained[field[2] SUBSEP field[3]] = 1 }
    }
}

# The function that holds the line, or "-": in this code a function's head stands at the left edge.
function holder(file, at,    n, text, name) {
    if (!(file in lines)) {
        for (n = 0; (getline text <file) > 0;) {
            if (text ~ /^[A-Za-z_].*\(/ && text !~ /;[ \t]*(\/\*.*)?$/) {
                sub(/\(.*/, "", text)
                sub(/.*[ *]/, "", text)
                name = text
            } else if (text ~ /^}/) {
                owner[file, ++n] = name
                name = "-"
                continue
            }
            owner[file, ++n] = name == "" ? "-" : name
        }
        close(file)
        lines[file] = n
    }
    return (file, at) in owner ? owner[file, at] : "-"
}

/^[^ :]+:[0-9]+:[0-9]+: (warning|error|style|performance|portability|information|fatal error): / {
    split($0, part, ":")
    message = $0
    sub(/^[^ ]+ [a-z ]+: /, "", message)
    check = "-"
    if (match(message, / \[[^][ ]+\]$/)) {
        check = substr(message, RSTART + 2, RLENGTH - 3)
        message = substr(message, 1, RSTART - 1)
    }
    where = holder(part[1], part[2])
    if ((check SUBSEP where) in explained || (check SUBSEP "*") in explained) { next }
    text = part[1] ":" part[2] " " where " " check ": " message
    if (!(text in seen)) { seen[text] = 1; left++; print text }
}

END { exit left > 0 }

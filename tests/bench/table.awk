# table.awk - prints the table of bench.sh out of bars.txt and the results ("mode client metric value", one a line).

function trim(text) {
    gsub(/^[ \t]+|[ \t]+$/, "", text)
    return text
}

# The figures of a mode, client and metric in order, into sorted[1..]; returns how many.
function sort_figures(key,    n, i, j, value) {
    n = split(figures[key], sorted, " ")
    for (i = 2; i <= n; i++) {
        value = sorted[i] + 0
        for (j = i - 1; j >= 1 && sorted[j] + 0 > value; j--) sorted[j + 1] = sorted[j]
        sorted[j + 1] = value
    }
    return n
}

function at(n, part,    place, low) {
    place = 1 + (n - 1) * part
    low = int(place)
    return low >= n ? sorted[n] : sorted[low] + (place - low) * (sorted[low + 1] - sorted[low])
}

function median(key,    n) {
    n = sort_figures(key)
    return n > 0 ? at(n, 0.5) : ""
}

function short(value) {
    return value == "" ? "" : sprintf(value >= 99.95 ? "%.0f" : value >= 9.995 ? "%.1f" : "%.2f", value)
}

# The median and how far the figures scatter.
function cell(key, divisor,    n, middle, spread) {
    n = sort_figures(key)
    if (n == 0) return ""
    middle = at(n, 0.5)
    spread = middle > 0 && n > 2 ? 50 * (at(n, 0.75) - at(n, 0.25)) / middle : 0
    return short(middle / divisor) (spread >= 0.5 ? sprintf(" ±%.0f%%", spread) : "")
}

function ratio(a, b) {
    return a != "" && b != "" && b > 0 ? sprintf("%.2f", a / b) : ""
}

# The number that a bar stands for; "" where there is none.
function bar_value(text, curl, floor,    parts) {
    if (split(text, parts, "/") == 2) text = mbedtls ~ /^2\./ ? parts[1] : parts[2]
    if (text ~ /^c\*/) return curl == "" ? "" : substr(text, 3) * curl
    if (text ~ /^f\*/) return floor == "" ? "" : substr(text, 3) * floor
    if (text ~ /^f\+/) return floor == "" ? "" : substr(text, 3) + floor
    return text
}

function bar_text(text, value,    parts) {
    if (split(text, parts, "/") == 2) text = mbedtls ~ /^2\./ ? parts[1] : parts[2]
    sub(/^c\*/, "libcurl x ", text)
    sub(/^f\*/, "floor x ", text)
    sub(/^f\+/, "floor + ", text)
    return text ~ /^[a-z]/ && value != "" ? text " = " short(value) : text
}

function verdict(ours, must, goal) {
    if (ours == "" || must == "") return ""
    if (ours + 0 <= goal + 0) return "goal"
    return ours + 0 <= must + 0 ? "must" : "**missed**"
}

function print_row(name, mode, metric, divisor, must, goal,    ours, curl, floor, m, g, whole) {
    ours = median(mode " azo " metric)
    if (ours == "") return
    curl = median(mode " curl " metric)
    floor = median(mode " floor " metric)
    whole = median(mode " floor_whole " metric)
    ours /= divisor
    if (curl != "") curl /= divisor
    if (floor != "") floor /= divisor
    m = bar_value(must, curl, floor)
    g = bar_value(goal, curl, floor)
    printf "| %s | %s | %s | %s%s | %s | %s | %s | %s | %s |\n", name, cell(mode " azo " metric, divisor), \
        cell(mode " curl " metric, divisor), cell(mode " floor " metric, divisor), \
        whole != "" ? " (" short(whole / divisor) ")" : "", ratio(ours, curl), ratio(ours, floor), bar_text(must, m), \
        bar_text(goal, g), verdict(ours, m, g)
}

FNR == NR {
    if ($0 !~ /^#/) rows[++row_count] = $0
    next
}

NF == 4 { figures[$1 " " $2 " " $3] = figures[$1 " " $2 " " $3] " " $4 }

END {
    printf "mbedTLS %s, %d cores, %s run of %d s. Floor: a bare mbedTLS program that looks up one root ", \
        mbedtls, cores, run, seconds
    print "(in brackets: that loads the whole bundle)."
    print ""
    print "| measure | azopenai.h | libcurl | floor | ÷ libcurl | ÷ floor | must | goal | holds |"
    print "|---|---|---|---|---|---|---|---|---|"
    for (i = 1; i <= row_count; i++) {
        split(rows[i], field, "|")
        for (j = 1; j <= 6; j++) field[j] = trim(field[j])
        print_row(field[1], field[2], field[3], field[4], field[5], field[6])
    }
}

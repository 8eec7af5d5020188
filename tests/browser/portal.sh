#!/bin/bash
# Walks through the portal in headless Chromium, as a recipient would: link, register, message, inbox, sign out, sign in.
# At every page it checks that nothing is wider than the screen, that no script of a mail ran, and that nothing was
# fetched from elsewhere; and it leaves a picture of each, on a desktop and on a phone.
#
#   portal.sh PORTAL LINK FOLDER      PORTAL is https://host:port, LINK the path of a notice's link, not used before
#
# Speaks the DevTools protocol over Chromium's pipe: JSON, ended by a zero byte, on descriptors 3 and 4.
set -euo pipefail

portal=$1 link=$2 folder=$3
password='a few words in a row'
mkdir -p "$folder"
work=$(mktemp -d)
mkfifo "$work/commands" "$work/replies"
exec 7<>"$work/commands" 8<>"$work/replies"
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --disable-dev-shm-usage --ignore-certificate-errors --user-data-dir="$work/profile" \
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost' \
    --remote-debugging-pipe 3<"$work/commands" 4>"$work/replies" 2>"$work/log" &
browser=$!
finish() {
    kill "$browser" 2>/dev/null || true
    wait "$browser" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "portal.sh: $*" >&2
    exit 1
}

number=0 session='' reply=''
# call METHOD PARAMETERS: sends a command and leaves its answer in $reply; events in between are passed over.
call() {
    number=$((number + 1))
    printf '{"id":%d,%s"method":"%s","params":%s}\0' "$number" "$session" "$1" "$2" >&7
    while IFS= read -r -d '' -t 60 reply <&8; do
        if [[ $reply == "{\"id\":$number,"* ]]; then
            [[ $reply != *'"error":{'* ]] || fail "$1: $reply"
            return
        fi
    done
    fail "no answer to $1; $(tail -n 3 "$work/log")"
}

# ask EXPRESSION: evaluates to text, left in $answer.
ask() {
    call Runtime.evaluate "{\"returnByValue\":true,\"expression\":\"String($1)\"}"
    answer=${reply#*\"value\":\"}
    answer=${answer%%\"*}
}

# until_true EXPRESSION
until_true() {
    for _ in $(seq 150); do
        ask "document.readyState === 'complete' && ($1)"
        [[ $answer != true ]] || return 0
        sleep 0.1
    done
    ask 'location.pathname + document.title'
    fail "$1 never became true; the page is $answer"
}

size() {
    call Emulation.setDeviceMetricsOverride "{\"width\":$1,\"height\":$2,\"deviceScaleFactor\":1,\"mobile\":$3}"
}

# page NAME: checks what is shown now, and takes its pictures.
page() {
    local view
    for view in desktop phone; do
        if [[ $view = desktop ]]; then size 1280 860 false; else size 360 740 true; fi
        sleep 0.2
        ask 'document.documentElement.scrollWidth <= innerWidth'
        [[ $answer = true ]] || fail "$1 is wider than a $view"
        call Page.captureScreenshot '{"format":"png","captureBeyondViewport":true}'
        answer=${reply#*\"data\":\"}
        base64 -d <<<"${answer%%\"*}" >"$folder/$1-$view.png"
    done
    size 1280 860 false
    ask 'window.harmed === undefined'
    [[ $answer = true ]] || fail "$1 ran a script of the mail"
    ask "performance.getEntriesByType('resource').every(r => r.name.startsWith('$portal/') || r.name.startsWith('data:'))"
    [[ $answer = true ]] || fail "$1 fetched something from elsewhere"
    ask "document.styleSheets.length === 1 && getComputedStyle(document.body).margin === '0px'"
    [[ $answer = true ]] || fail "$1 has no style"
}

go() {
    call Page.navigate "{\"url\":\"$portal$1\"}"
    until_true "location.pathname === '$1'"
}

fill() {
    ask "document.getElementById('$1').value = '$2'"
}

send() {
    ask "document.querySelector('button.main').click()"
}

call Target.createTarget '{"url":"about:blank"}'
target=${reply#*\"targetId\":\"}
call Target.attachToTarget "{\"targetId\":\"${target%%\"*}\",\"flatten\":true}"
session=${reply#*\"sessionId\":\"}
session="\"sessionId\":\"${session%%\"*}\","
call Page.enable '{}'

go /signin
page signin
go /m/unknown
page unknown-link

go "$link"
page link
fill password short-words-here
fill again other-words-here
send
until_true "document.querySelector('.error') !== null"
page link-refused
fill password "$password"
fill again "$password"
send
until_true "location.pathname.startsWith('/messages/')"
page message

go /inbox
page inbox
ask "document.querySelectorAll('.list a').length"
for at in $(seq 0 $((answer - 1))); do
    go /inbox
    ask "document.querySelectorAll('.list a')[$at].click()"
    until_true "location.pathname.startsWith('/messages/')"
    page "message-$at"
done

ask "document.querySelector('.account button').click()"
until_true "location.pathname === '/signin'"
call Page.navigate "{\"url\":\"$portal/inbox\"}"
until_true "location.pathname === '/signin'"
go "$link"
page link-again
fill password wrong-password
send
until_true "document.querySelector('.error') !== null"
fill password "$password"
send
until_true "location.pathname.startsWith('/messages/')"
call Emulation.setEmulatedMedia '{"features":[{"name":"prefers-color-scheme","value":"dark"}]}'
page message-dark
go /inbox
page inbox-dark
echo "portal.sh: every page is as it must be; pictures are in $folder"

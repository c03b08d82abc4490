#!/bin/sh
# What `make` needs before it can run: Debian packages (only as root, only missing ones) and a virtual environment.
#   setup.sh demo | lab | test    the Debian packages of that target
#   setup.sh venv DIR PYTHON [PIP OPTION...]      the virtual environment
set -eu
cd "$(dirname "$0")/.."

DEMO_PACKAGES="iproute2 python3-venv"
LAB_PACKAGES="$DEMO_PACKAGES iputils-ping tmux"
TEST_PACKAGES="$LAB_PACKAGES procps tshark user-mode-linux kmod charon-systemd strongswan-swanctl \
libcharon-extra-plugins libstrongswan-standard-plugins libstrongswan-extra-plugins libcharon-extauth-plugins \
netbase gcc libc6-dev openiked"
POLICY=/usr/sbin/policy-rc.d

missing() {
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || printf '%s ' "$package"
    done
}

# The daemons are for the tests, which start them in namespaces: none starts now, or with the machine.
without_daemons() {
    if [ -e "$POLICY" ]; then
        "$@"
    else
        printf '#!/bin/sh\nexit 101\n' > "$POLICY"
        chmod 755 "$POLICY"
        trap 'rm -f "$POLICY"' EXIT
        status=0
        "$@" || status=$?
        rm -f "$POLICY"
        trap - EXIT
        return $status
    fi
}

not_with_the_machine() {
    for one in "$@"; do
        case $one in
            charon-systemd) systemctl disable strongswan.service >/dev/null 2>&1 || true ;;
            openiked) systemctl disable openiked.service >/dev/null 2>&1 || true ;;
        esac
    done
}

# One by one where the set as a whole cannot be had: user-mode-linux is not in every release.
install() {
    apt-get -q -y install --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    for package in "$@"; do
        apt-get -q -y install --no-install-recommends "$package" >/dev/null 2>&1 \
            || echo "setup: $package cannot be installed here; the tests that need it are skipped and say so"
    done
}

packages() {
    command -v dpkg-query >/dev/null || return 0
    wanted=$(missing "$@")
    # A python that has venv needs no python3-venv.
    if "${PYTHON:-python3}" -c 'import venv, ensurepip' 2>/dev/null; then
        wanted=$(printf '%s\n' $wanted | grep -vx python3-venv || true)
    fi
    [ -n "$(echo $wanted)" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "setup: not root, so these Debian packages stay missing:" $wanted
        return 0
    fi
    echo "setup: installing Debian packages:" $wanted
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update >/dev/null || echo "setup: apt-get update failed; trying with the lists that are here"
    without_daemons install $wanted
    not_with_the_machine $wanted
}

venv() {
    directory=$1 python=$2
    shift 2
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || { echo "setup: $python is older than Python 3.11; give another with make PYTHON=..." >&2; exit 1; }
    echo "setup: virtual environment in $directory"
    if [ ! -x "$directory/bin/python" ] && ! "$python" -m venv "$directory" >/dev/null; then
        rm -rf "$directory"
        echo "setup: $python cannot make a virtual environment; as root: apt-get install python3-venv" >&2
        exit 1
    fi
    "$directory/bin/python" -m pip install -q --disable-pip-version-check -U "pip>=25.1"
    "$directory/bin/python" -m pip install -q --disable-pip-version-check -e . "$@"
}

case ${1:-} in
    demo) packages $DEMO_PACKAGES ;;
    lab) packages $LAB_PACKAGES ;;
    test) packages $TEST_PACKAGES ;;
    venv) shift; venv "$@" ;;
    *) echo "usage: setup.sh demo | lab | test | venv DIR PYTHON [PIP OPTION...]" >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# What bash, zsh and fish offer after a word, by the scripts of `r3mes-edge completions` in the real shells: subcommands,
# options and values, at every depth. Installs what is missing.
. "$(dirname "$0")/common.bash"

need zsh fish
build --bin r3mes-edge
edge=$built/r3mes-edge

# The line that is typed so far, and some of the words that must be offered.
cases=(
  'r3mes-edge |status alerts chat keys ledger backup restore completions version'
  'r3mes-edge ke|keys'
  'r3mes-edge keys |create list show rotate revoke'
  'r3mes-edge keys create --|--wallet --scopes --expires --credit-limit --json --url'
  'r3mes-edge keys create --sc|--scopes'
  'r3mes-edge chat --|--wallet --model --key-file'
  'r3mes-edge users |create show list block unblock'
  'r3mes-edge --json breaker |list open reset'
  'r3mes-edge backup |create verify restore'
  'r3mes-edge backup create --|--to --keep --database'
  'r3mes-edge ledger export --format |csv json'
  'r3mes-edge usage --by |day key model'
  'r3mes-edge metrics |rules scrape dashboard'
)

# offered SHELL LINE: what the shell offers, among other text.
offered() { "offered_$1" "$2" < /dev/null 2>&1; }

mkdir "$scratch/home" "$scratch/zsh" "$scratch/bin"
ln -s "$edge" "$scratch/bin/r3mes-edge"
export HOME=$scratch/home PATH=$scratch/bin:$PATH TERM=xterm
unset XDG_CONFIG_HOME XDG_DATA_HOME

# By the function that the script registers, as readline calls it.
"$edge" completions bash > "$scratch/complete.bash"
cat >> "$scratch/complete.bash" << 'END'
registered=$(complete -p r3mes-edge) || exit 1
function=${registered#*-F }
IFS=' ' read -ra COMP_WORDS <<< "$1"
[[ $1 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
"${function%% *}" r3mes-edge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
END
offered_bash() { bash --norc "$scratch/complete.bash" "$1"; }

# At a terminal, by the key that lists what fits.
"$edge" completions zsh > "$scratch/zsh/_r3mes-edge"
cat > "$scratch/complete.zsh" << 'END'
zmodload zsh/zpty
zpty shell zsh -f -i
typed() {
  local shown
  zpty -w -n shell "$1"
  # It is not there before it is printed, as the quotes are typed too; then the next prompt switches bracketed paste on.
  zpty -w -n shell $'\x15'"print -r -- the''end"$'\n'
  zpty -r shell shown '*theend*2004h*'
  print -r -- "$shown"
}
typed "stty rows 500 cols 200; LISTMAX=10000 PS1= fpath=(${(q)1} \$fpath); bindkey -e; bindkey '^T' list-choices"$'\n' > /dev/null
typed "autoload -Uz compinit; compinit -u -D"$'\n' > /dev/null
typed "$2"$'\x14'
zpty -d shell
END
offered_zsh() { timeout 60 zsh -f "$scratch/complete.zsh" "$scratch/zsh" "$1"; }

# By the file that fish finds itself.
mkdir -p "$HOME/.config/fish/completions"
"$edge" completions fish > "$HOME/.config/fish/completions/r3mes-edge.fish"
offered_fish() { LINE=$1 fish -c 'complete -C "$LINE"'; }

for shell in bash zsh fish; do
  for case in "${cases[@]}"; do
    line=${case%|*}
    why="$shell: $line"
    offered "$shell" "$line" > "$scratch/offered" || { cat "$scratch/offered"; exit 1; }
    for word in ${case#*|}; do
      grep -qE -- "(^|[^a-z-])$word([^a-z-]|\$)" "$scratch/offered" || { cat -v "$scratch/offered"; fail "$shell does not offer $word after: $line"; }
    done
  done
  # Nothing of another command.
  offered "$shell" 'r3mes-edge keys ' > "$scratch/offered"
  ! grep -qwE 'grant|scrape' "$scratch/offered" || { cat -v "$scratch/offered"; fail "$shell offers what is not of keys"; }
  echo "ok      $shell: ${#cases[@]} lines"
done
passed

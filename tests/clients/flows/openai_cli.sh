#!/usr/bin/env bash
# The command line that openai 2.34 was the last to carry: upload by path, tune, watch, ask, delete.
set -euo pipefail

# field NAME: the first value of a key in the JSON on standard input.
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1"; }

mkdir -p data
cp "$TRAINING_FILE" data/train.jsonl # the path as typed becomes the file's name on the wire
file="$(openai api files.create -f data/train.jsonl -p fine-tune | field id)"
openai api files.list | grep -q "$file"

job="$(openai api fine_tuning.jobs.create -m gpt-4o-mini -F "$file" -H '{"n_epochs": 1}' -s cli | field id)"
echo "created $job"
while true; do
  status="$(openai api fine_tuning.jobs.retrieve -i "$job" | field status)"
  case "$status" in succeeded) break ;; failed | cancelled) echo "the job ended as $status"; exit 1 ;; esac
  sleep 1
done
openai api fine_tuning.jobs.list -l 5 | grep -q "$job"
openai api fine_tuning.jobs.list_events -i "$job" -l 100 | grep -q '"level"'

model="$(openai api fine_tuning.jobs.retrieve -i "$job" | field fine_tuned_model)"
openai api models.list | grep -q "$model"
openai api models.retrieve -i "$model" | grep -q "$model"
answer="$(openai api chat.completions.create -m "$model" -M 40 -g user "My parcel never arrived.")"

# What a user does who passes a path where an id is wanted: told so, not looked for.
if told="$(openai api fine_tuning.jobs.create -m gpt-4o-mini -F data/train.jsonl 2>&1)"; then
  echo "a path was taken for a file id"
  exit 1
fi
echo "$told" | grep -q "invalid training_file: data/train.jsonl" || { echo "not told about the path: $told"; exit 1; }
openai api models.delete -i "$model" | grep -q '"deleted": true'

echo "answer: $answer"

#!/usr/bin/env bash
# promptfoo evaluates a tuned model: everything after "openai:chat:" is the model's name, colons included.
set -euo pipefail

export PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 PROMPTFOO_CONFIG_DIR="$PWD/promptfoo"
cat >promptfooconfig.yaml <<END
prompts: ["{{ticket}}"]
providers:
  - id: "openai:chat:$TUNED_MODEL"
    config: {apiBaseUrl: "$OPENAI_BASE_URL", temperature: 0, max_tokens: 40}
tests:
  - vars: {ticket: My parcel never arrived.}
    assert:
      - {type: javascript, value: output.length > 0}
      - {type: latency, threshold: 60000}
  - vars: {ticket: I was charged twice.}
    assert: [{type: regex, value: "\\\\S"}]
END
promptfoo eval -c promptfooconfig.yaml --no-cache --no-progress-bar --output results.json
node --input-type=module -e '
  import fs from "node:fs";
  const { results } = JSON.parse(fs.readFileSync("results.json"));
  if (results.stats.successes !== 2) throw new Error(JSON.stringify(results.stats));
  if (!(results.results[0].response.tokenUsage.completion > 0)) throw new Error("no usage");
  console.log("answer:", results.results[0].response.output);
'

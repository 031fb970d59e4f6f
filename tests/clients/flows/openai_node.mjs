// The official Node SDK: a chunked upload from a stream, tune, iterate events, ask, delete.
import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI(); // OPENAI_BASE_URL and OPENAI_API_KEY
const upload = (path) => client.files.create({ file: fs.createReadStream(path), purpose: "fine-tune" });
const training = await upload(process.env.TRAINING_FILE);
const validation = await upload(process.env.VALIDATION_FILE);
assert.equal((await client.files.waitForProcessing(training.id)).status, "processed");

let job = await client.fineTuning.jobs.create({
  model: "gpt-4o-mini",
  training_file: training.id,
  validation_file: validation.id,
  suffix: "node",
  metadata: { client: "openai-node" },
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1 } } },
});
console.log("created", job.id, job.model);
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  job = await client.fineTuning.jobs.retrieve(job.id);
}
assert.equal(job.status, "succeeded", JSON.stringify(job.error));

const messages = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 2 })) messages.unshift(event.message);
assert.ok(messages.length > 2, "only one page of events");
console.log(messages.join("\n"));
let listed = false;
for await (const other of client.fineTuning.jobs.list({ metadata: { client: "openai-node" } })) listed ||= other.id === job.id;
assert.ok(listed, "the job is not in the list");

const question = { model: job.fine_tuned_model, max_tokens: 40, messages: [{ role: "user", content: "My parcel never arrived." }] };
const answer = await client.chat.completions.create(question);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.ok(streamed.length > 0, "an empty stream");

await assert.rejects(client.fineTuning.jobs.cancel(job.id), (error) => error.status === 400 && /already/i.test(error.message));
await assert.rejects(
  client.fineTuning.jobs.create({ model: "gpt-4o-mini", training_file: "nope" }),
  (error) => error.status === 400 && error.param === "training_file",
);
assert.equal((await client.models.delete(job.fine_tuned_model)).deleted, true);
await assert.rejects(client.models.retrieve(job.fine_tuned_model), OpenAI.NotFoundError);

console.log("answer:", answer.choices[0].message.content);

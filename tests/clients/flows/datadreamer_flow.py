"""DataDreamer's TrainOpenAIFineTune: it probes ids that are not there, cleans up, cancels what has succeeded."""

import json
import os

from datadreamer import DataDreamer
from datadreamer.llms import OpenAI
from datadreamer.steps import DataSource
from datadreamer.trainers import TrainOpenAIFineTune

SERVER = {"base_url": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}


def rows(variable):
    with open(os.environ[variable], encoding="utf-8") as lines:
        for messages in (json.loads(line)["messages"] for line in lines):
            yield {"input": messages[-2]["content"], "output": messages[-1]["content"]}


with DataDreamer("./output"):
    training = DataSource("tickets", data=list(rows("TRAINING_FILE")))
    validation = DataSource("more tickets", data=list(rows("VALIDATION_FILE")))
    trainer = TrainOpenAIFineTune("tune", model_name="gpt-4o-mini-2024-07-18", **SERVER)
    trainer.train(
        train_input=training.output["input"],
        train_output=training.output["output"],
        validation_input=validation.output["input"],
        validation_output=validation.output["output"],
        epochs=1,
    )
    name = trainer.model  # looked up with GET /models/{name}
    assert name.startswith("ft:gpt-4o-mini") and ":datadreamer:" in name, name
    # Its LLM class counts tokens with tiktoken, which has to download an encoding: without a network that
    # fails before anything is sent. The SDK under it is asked instead then.
    try:
        answer = OpenAI(name, **SERVER).run(["My parcel never arrived."], max_new_tokens=40)[0]
    except OSError as error:
        print(
            f"note: tiktoken's encoding could not be downloaded ({type(error).__name__}), asked through its SDK client"
        )
        reply = trainer.client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "My parcel never arrived."}], max_tokens=40
        )
        answer = reply.choices[0].message.content

print("answer:", answer)

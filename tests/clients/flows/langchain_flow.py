"""LangChain's ChatOpenAI on a tuned model: plain, streamed with usage, structured, and its token count."""

import os

from langchain_openai import ChatOpenAI
from pydantic import BaseModel

model = ChatOpenAI(model=os.environ["TUNED_MODEL"], temperature=0, max_tokens=60, stream_usage=True)
question = [("user", "My parcel never arrived.")]

answer = model.invoke(question)
assert answer.response_metadata["model_name"] == os.environ["TUNED_MODEL"], answer.response_metadata
assert answer.usage_metadata["output_tokens"] > 0
whole = None
for chunk in model.stream(question):
    whole = chunk if whole is None else whole + chunk
assert whole.content and whole.usage_metadata["output_tokens"] > 0
assert len(model.batch([question] * 3)) == 3


class Ticket(BaseModel):
    """What a ticket is about."""

    category: str
    needs_refund: bool


typed = model.with_structured_output(Ticket, method="json_schema").invoke(question)
assert isinstance(typed, Ticket)
try:
    print("tokens of the question:", model.get_num_tokens("My parcel never arrived."))
except OSError as error:
    print(f"note: token count not exercised, tiktoken's encoding could not be downloaded ({type(error).__name__})")

print("answer:", answer.content)

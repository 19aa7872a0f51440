"""Calls of a generated client: every module is imported, and what comes is read into the types of the document."""

import importlib
import os
import pkgutil
import sys

sys.path.insert(0, os.getcwd())
import edge_client
from edge_client import AuthenticatedClient
from edge_client.api.default import (
    chat_completions,
    completions,
    count_tokens,
    embeddings,
    grant,
    list_keys,
    list_users,
    messages,
    model,
    models,
    rerank,
    responses,
    usage,
)
from edge_client.models import (
    AnthropicError,
    ChatCompletion,
    ChatCompletionRequest,
    ChatMessage,
    ChatMessageRole,
    Completion,
    CompletionRequest,
    CountTokensRequest,
    Embeddings,
    EmbeddingsRequest,
    GrantRequest,
    Keys,
    Message,
    MessagesRequest,
    MessageTurn,
    MessageTurnRole,
    Model,
    ModelResponse,
    Models,
    Problem,
    Reranked,
    RerankRequest,
    ResponseFunction,
    ResponseMessage,
    ResponseMessageRole,
    ResponsesRequest,
    TokenCount,
    Users,
)

for found in pkgutil.walk_packages(edge_client.__path__, "edge_client."):
    importlib.import_module(found.name)

EDGE, ADMIN, KEY, WALLET = (os.environ[name] for name in ("EDGE", "ADMIN", "KEY", "WALLET"))
admin, wallet = (AuthenticatedClient(base_url=EDGE, token=key, raise_on_unexpected_status=True) for key in (ADMIN, KEY))


def only(kind, answer, status=200):
    assert answer.status_code == status, (answer.status_code, answer.content)
    assert isinstance(answer.parsed, kind), answer.parsed
    return answer.parsed


granted = grant.sync_detailed(WALLET, client=admin, body=GrantRequest(amount=5, reason="generated"))
assert granted.status_code == 200 and granted.parsed.credits_ >= 5, granted.content
assert only(Users, list_users.sync_detailed(client=admin)).users
only(Keys, list_keys.sync_detailed(client=admin))
listed = only(Models, models.sync_detailed(client=wallet)).data
assert only(Model, model.sync_detailed(listed[0].id, client=wallet)).id == listed[0].id

said = [ChatMessage(role=ChatMessageRole.USER, content="one two")]
chat = only(ChatCompletion, chat_completions.sync_detailed(client=wallet, body=ChatCompletionRequest(messages=said)))
assert chat.choices[0].message.content and chat.usage.cost > 0, chat

def paid(kind, call, body):
    answer = only(kind, call.sync_detailed(client=wallet, body=body))
    assert answer.usage.cost > 0, answer
    return answer


assert paid(Completion, completions, CompletionRequest(prompt=["one two"], max_tokens=9)).choices[0].text
assert paid(Embeddings, embeddings, EmbeddingsRequest(input_=[[1, 2], [3]])).data[0].embedding
assert paid(Reranked, rerank, RerankRequest(query="one", documents=["two"])).results[0].relevance_score
asked = ResponseMessage(role=ResponseMessageRole.USER, content="one two")
function = ResponseFunction(type_="function", name="f")
assert paid(ModelResponse, responses, ResponsesRequest(input_=[asked], tools=[function])).output[0].content
turns = [MessageTurn(role=MessageTurnRole.USER, content="one two")]
assert paid(Message, messages, MessagesRequest(messages=turns, max_tokens=9)).content[0].text
assert only(TokenCount, count_tokens.sync_detailed(client=wallet, body=CountTokensRequest(messages=turns))).input_tokens
seen = usage.sync_detailed(client=wallet)
assert seen.status_code == 200 and seen.parsed is not None, seen.content

wrong = ChatCompletionRequest(messages=said, model="nothing")
problem = only(Problem, chat_completions.sync_detailed(client=wallet, body=wrong), 404)
assert problem.error.code == problem.code, problem
other = MessagesRequest(messages=turns, model="nothing", max_tokens=9)
assert only(AnthropicError, messages.sync_detailed(client=wallet, body=other), 404).error.type_ == "not_found_error"
print("python: passed")

"""Chat models: one asynchronous client, and the backends that carry its questions to a server or a model in this process.

    ChatRequest -> Client: reply cache -> Sender: slots, retries, circuit breaker -> Backend -> RawReply
                   parse and validate, repair, account

`client` holds the conversation, `sender` the patience, `outcomes` what a failure means, `parse` what a usable reply is.
"""

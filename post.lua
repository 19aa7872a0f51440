wrk.method="POST"; wrk.body='{"hashrate":42.5}'; wrk.headers["Content-Type"]="application/json"; wrk.headers["X-API-Key"]=os.getenv("KEY")

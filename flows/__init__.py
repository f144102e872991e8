"""What runs, when and where: Prefect flows over the graph that DVC owns."""

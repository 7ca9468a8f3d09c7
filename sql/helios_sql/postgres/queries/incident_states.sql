-- How many incidents are in each state.
SELECT state, count(*) AS incidents FROM incidents GROUP BY state ORDER BY state

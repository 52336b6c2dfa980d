# Secrets are seen by their vendor alone, and requests go nowhere but where they
# may.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use PostgreSQL::Test::Utils;
use Socket ();
use Sys::Hostname ();
use Test::More;

my $key = 'sk_test_5ecretOfBilling';
my $token = 't0kenOfCrmThatNobodySees';
$SyncExt::Hub::STRIPE_KEY = $key;
my $other = SyncExt::Sandbox->start;
my $hub = SyncExt::Hub->new('main', no_routes => 1, systems => [],
	conf => "log_statement = 'all'\nlog_min_messages = debug1\nlog_min_duration_statement = 0\n",
	sandbox => SyncExt::Sandbox->start(key => $key));
my $node = $hub->node;
my $sandbox = $hub->sandbox;

$sandbox->config(rest_token => $token);
$hub->add_system('billing', secret => $key, settle_time => '300 ms', rate_limit => '1000/s');
$hub->add_system('crm', secret => $token, settle_time => '300 ms', rate_limit => '1000/s');
$hub->{systems} = [ 'billing', 'crm' ];
$hub->sql("SELECT sync.create_route('$_', 'customer')") foreach qw(billing crm);
$hub->wait_running;

# ---- where a secret could show ----

my $id = $hub->write('honest 1');
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'the vendors accept the secrets');
# A vendor that tells us our secret in its error.
foreach my $rule ([ '/v1/customers', $key ], [ '/rest/customers', $token ])
{
	$sandbox->fault(kind => 'status', status => 400, times => 1, match => { path => $rule->[0], method => 'POST' },
		headers => { 'X-Echo' => $rule->[1] },
		body => qq({"error": {"message": "bad key $rule->[1]", "code": "$rule->[1]"}, "message": "bad token $rule->[1]", "code": "x$rule->[1]"}));
}
$hub->write('echoed');
$hub->wait_idle;
$sandbox->fault(kind => 'status', status => 401, times => 2, match => { path => '/rest/customers' },
	body => qq({"message": "bad token $token", "code": "$token"}));
$hub->write('refused');
$hub->wait_idle;
is($hub->value('SELECT count(*) FROM sync.dead_letter'), 2, 'both refused it with the secret in the message');
$hub->sql("SELECT * FROM sync.preview('billing', 'customer', '$id')");
$hub->sql(q(SELECT * FROM sync.check_system('billing')));
$node->secret('billing', 'api_key', "$key-wrong");
$hub->rename($id, 'honest 2');
$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.notice WHERE key = 'auth:billing')));
$node->secret('billing', 'api_key', $key);
$hub->poll_until(q(SELECT NOT EXISTS (SELECT FROM sync.notice WHERE key = 'auth:billing')));
$hub->wait_idle;

my $secrets = qr/\Q$key\E|\Q$token\E/;
my @tables = split /\n/, $hub->sql(q(SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace IN ('sync'::regnamespace, 'app'::regnamespace) AND c.relkind IN ('r', 'p', 'v')));
my @leaks = grep {
	my ($status, $out, $err) = $node->psql('hub', "SELECT t::text FROM $_ t");
	"$out$err" =~ $secrets;
} @tables;
is_deeply(\@leaks, [], scalar(@tables) . ' tables and views hold no secret');
unlike($hub->sql('SELECT * FROM pg_foreign_server, pg_user_mappings'), $secrets, 'nor do the catalogs');
unlike($hub->sql('SELECT * FROM pg_stat_activity'), $secrets, 'nor pg_stat_activity');
my ($dump, $complaint) = PostgreSQL::Test::Utils::run_command([ 'pg_dumpall', '-d', $node->connstr('hub') ]);
like($dump, qr/honest 2/, 'a dump is a dump');
unlike($dump . $complaint, $secrets, 'and holds no secret');
# psql's own statements are ours to keep clean; everything else in the log is the server's.
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), $secrets, 'the log at debug1 holds no secret');

# ---- whose secret it is ----

sub refused
{
	my ($name, $statement, $why) = @_;
	my ($status, $out, $err) = $node->psql('hub', $statement);

	isnt($status, 0, "$name is refused");
	like($err, $why, "$name: with the reason");
	return;
}

refused('an inline secret', "ALTER USER MAPPING FOR PUBLIC SERVER billing OPTIONS (SET api_key 'sk_live_inline')", qr/file:|env:|reference/);
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ s/.*STATEMENT.*|.*statement:.*//gr, qr/sk_live_inline/,
	'and not repeated in the error');
refused("another system's secret", "ALTER USER MAPPING FOR PUBLIC SERVER billing OPTIONS (SET api_key 'file:../crm/token')", qr/does not refer to a secret/);
refused('a path', "ALTER USER MAPPING FOR PUBLIC SERVER billing OPTIONS (SET api_key 'file:/etc/passwd')", qr/does not refer to a secret/);
mkdir $node->secrets_dir . '/thief';
symlink $node->secrets_dir . '/crm/token', $node->secrets_dir . '/thief/token';
$hub->sql(qq(CREATE SERVER thief FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'rest', base_url '@{[ $sandbox->url ]}');
	CREATE USER MAPPING FOR PUBLIC SERVER thief OPTIONS (token 'file:token')));
is($hub->sql(q(SELECT ok FROM sync.check_system('thief') WHERE "check" = 'secret token')), 'f',
	"a link to another system's secret is no secret");

# ---- where requests may go ----

# Tries one request to a place and returns what became of it.
my $tried = 0;

sub goes_to
{
	my ($url, %option) = @_;
	my $name = 'place' . ++$tried;
	my $allowed = defined $option{allowed} ? ", allowed_hosts '$option{allowed}'" : '';

	$node->secret($name, 'token', 'harmless');
	my ($status, $out, $err) = $node->psql('hub', qq(CREATE SERVER $name FOREIGN DATA WRAPPER sync_ext
			OPTIONS (connector '@{[ $option{connector} // 'rest' ]}', base_url '$url', connect_timeout '1 s'$allowed);
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (token 'file:token')));
	return "declaration: $err" if $status != 0;
	my $call = $hub->value("SELECT sync.call('$name', 'customer.lookup', '{\"id\": \"x\"}')");
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.notice WHERE key = 'send:$name' OR key = 'reach:$name')
		OR EXISTS (SELECT FROM sync.health() WHERE detail LIKE '%\"$name\"%')
		OR (SELECT state IN ('done', 'failed', 'ambiguous') FROM sync.api_call WHERE id = $call)");
	my $result = $hub->sql("SELECT state FROM sync.api_call WHERE id = $call") . ': '
	  . $hub->sql("SELECT message FROM sync.notice WHERE key = 'send:$name' OR key = 'reach:$name'")
	  . $hub->sql("SELECT detail FROM sync.health() WHERE detail LIKE '%\"$name\"%'");
	$hub->sql("SELECT sync.pause('$name')");
	return $result;
}

my $port = $other->port;
like(goes_to("http://127.0.0.1:$port"), qr/^(?!done).*is not allowed/, 'a loopback port that is not listed');
like(goes_to("http://localhost:$port"), qr/^(?!done).*not in the list of allowed hosts/i, 'nor by a name that resolves to it');
like(goes_to("http://[::1]:$port"), qr/^(?!done).*not in the list of allowed hosts/i, 'nor by its other address');
like(goes_to("http://2130706433:$port"), qr/^(?!done)/, 'nor by another spelling');
like(goes_to("http://169.254.169.254/latest"), qr/^(?!done).*not in the list of allowed hosts/i, 'nor the address of cloud metadata');
like(goes_to('http://10.0.0.1'), qr/^(?!done).*not in the list of allowed hosts/i, 'nor a private one');
# A name that is listed does not list the addresses it resolves to.
my $listed = SyncExt::Hub::manifest('rest') =~ s/"name": "rest"/"name": "rest_by_name"/r =~ s/"127.0.0.1"/"localhost"/r;
$hub->sql("SELECT sync.register_connector(\$m\$$listed\$m\$::jsonb)");
like(goes_to("https://localhost:$port", connector => 'rest_by_name'), qr/^(?!done).*needs a port/, 'nor localhost as a connector lists it');
SKIP:
{
	# A name that is listed does not list the addresses it resolves to.
	my $name = Sys::Hostname::hostname();
	my $address = gethostbyname($name);
	skip 'this machine\'s name does not resolve to an address of its own', 1
	  if !defined $address || Socket::inet_ntoa($address) !~ /^(127|10|192\.168|172\.(1[6-9]|2\d|3[01]))\./ || $name !~ /^[A-Za-z][A-Za-z0-9.-]*$/;
	$listed =~ s/"rest_by_name"/"rest_by_hostname"/;
	$listed =~ s/"localhost"/"$name"/;
	$hub->sql("SELECT sync.register_connector(\$m\$$listed\$m\$::jsonb)");
	like(goes_to("https://$name:$port", connector => 'rest_by_hostname'), qr/^(?!done).*\Q@{[ Socket::inet_ntoa($address) ]}\E/,
		'nor a listed name that resolves to it');
}
is_deeply($other->requests, [], 'and nothing arrived there');
# A redirect from a place that is allowed to one that is not.
$sandbox->config(rest_token => '');
$sandbox->fault(kind => 'redirect', location => $other->url . '/rest/customers', times => 1, match => { path => '/rest/customers', method => 'GET' });
like(goes_to($sandbox->url), qr/^failed/, 'a redirect ends the call');
is_deeply($other->requests, [], 'and is not followed');
is($hub->value(q(SELECT sync.call('thief', 'customer.lookup', '{"id": "x"}') > 0)), 't', 'a call with a stolen secret');
$hub->poll_until(q(SELECT EXISTS (SELECT FROM sync.health() WHERE detail LIKE '%"thief"%')
	OR EXISTS (SELECT FROM sync.api_call a JOIN sync.system s ON s.id = a.system_id WHERE s.name = 'thief' AND a.state = 'failed')));
is(scalar(grep { ($_->{fault} // '') eq '' && $_->{path} =~ /thief/ } @{ $sandbox->requests }), 0, 'is not made');

$node->stop;
done_testing();
